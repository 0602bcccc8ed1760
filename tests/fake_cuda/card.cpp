// A CUDA device without a card, for torch's autograd and for its questions about devices.
//
// It has one device with one stream and computes nothing: fake tensors carry only shapes. A CPU build
// of torch has neither of the two classes below. A CUDA build has real ones, which need a driver. So
// the hooks are registered when this library is loaded, before torch, and are preferred there. The
// guard is registered by a call after torch is imported, because the last guard counts.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace fake_cuda {

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;

const Device card(DeviceType::CUDA, 0);
const Stream only_stream(Stream::DEFAULT, card);

struct Guard final : c10::impl::NoOpDeviceGuardImpl<DeviceType::CUDA> {
  Device getDevice() const override { return card; }
  Device exchangeDevice(Device) const override { return card; }
  Stream getStream(Device) const noexcept override { return only_stream; }
  Stream getDefaultStream(Device) const override { return only_stream; }
  Stream getNewStream(Device, int = 0) const override { return only_stream; }
  Stream exchangeStream(Stream) const noexcept override { return only_stream; }
  void record(void**, const Stream&, const DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};

struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return 1; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  void deviceSynchronize(DeviceIndex) const override {}
  // A CUDA build of torch asks for these, to choose a kernel. Not all versions have the second one.
  long versionCuDNN() const override { return 0; }
  long versionRuntimeCuDNN() const { return 0; }
};

}  // namespace fake_cuda

namespace at {
using FakeCudaHooks = fake_cuda::Hooks;
C10_REGISTER_TYPED_CLASS_WITH_PRIORITY(
    CUDAHooksRegistry, "CUDAHooks", c10::REGISTRY_PREFERRED, FakeCudaHooks)
}  // namespace at

extern "C" void use_fake_card() {
  static c10::impl::DeviceGuardImplRegistrar registrar(
      c10::DeviceType::CUDA, new fake_cuda::Guard());
}
