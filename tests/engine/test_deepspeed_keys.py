"""Values that only DeepSpeed's models know are checked before a run starts, without conversion."""

from pathlib import Path

import pytest

from bertds.config.case import read_case
from bertds.distributed.world import World
from bertds.engine.deepspeed_keys import check_deepspeed_keys
from bertds.errors import ConfigError
from bertds.training.setup import prepare_run
from tests.helpers.launching import ROOT

CASE1 = ROOT / "ds_configs" / "case1.json", "layers4"
ZERO = "zero_optimization"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("bf16.immediate_grad_update=1", "is 1, which DeepSpeed would read as true: write true"),
        (f"{ZERO}.overlap_comm=yes", 'is "yes", which DeepSpeed would read as true: write true'),
        (f"{ZERO}.overlap_comm=3", "is 3, expected true or false"),
        (f"{ZERO}.overlap_comm=[]", "is [], expected true or false"),
        (f'{ZERO}.reduce_bucket_size="5"', 'is "5", which DeepSpeed would read as 5: write 5'),
        (f"{ZERO}.reduce_bucket_size=true", "is true, which DeepSpeed would read as 1: write 1"),
        (f"{ZERO}.reduce_bucket_size=0.5", "is 0.5, expected a whole number"),
        (f"{ZERO}.reduce_bucket_size=many", 'is "many", expected a whole number'),
        (f"{ZERO}.reduce_bucket_size=0", "is 0, expected more than 0"),
        (f"{ZERO}.reduce_bucket_size=1e19", "is 1e+19, expected at most 9e18"),
        (f"{ZERO}.sub_group_size=9223372036854775808", "9223372036854775808, expected at most 9e1"),
        (f"{ZERO}.offload_optimizer.fast_init=0", "is 0, which DeepSpeed would read as false: wri"),
        (f"{ZERO}.offload_optimizer.cpuadam_cores_perc=2", "is 2, expected at most 1"),
        (f"{ZERO}.offload_optimizer.cpuadam_cores_perc=all", 'is "all", expected a number'),
        ("tensorboard.output_path=3", "is 3, expected a string"),
        ("comms_logger.verbose=off", 'is "off", which DeepSpeed would read as false: write false'),
    ],
)
def test_a_wrong_value_is_rejected(setting, message):
    case = read_case(*CASE1, setting)
    with pytest.raises(ConfigError) as rejected:
        check_deepspeed_keys(case)
    path = setting.partition("=")[0]
    assert str(rejected.value).startswith(f"case1.json (arm layers4): {path} is ")
    assert message in str(rejected.value)


@pytest.mark.parametrize(
    "setting",
    [
        f"{ZERO}.reduce_bucket_size=5e8,{ZERO}.stage3_prefetch_bucket_size=50000000",
        f"{ZERO}.offload_optimizer.cpuadam_cores_perc=1",
        f'{ZERO}={{"stage":3,"overlap_comm":null}}',
        f'{ZERO}={{"stage":3,"offload_param":{{"device":"nvme","nvme_path":"scratch//a/"}}}}',
        'wandb={"enabled":true,"group":null}',
    ],
)
def test_a_valid_value_is_accepted(setting):
    check_deepspeed_keys(read_case(*CASE1, setting))


def test_a_run_is_not_prepared_with_a_wrong_value(tmp_path: Path) -> None:
    case = read_case(*CASE1, "bf16.immediate_grad_update=1")
    with pytest.raises(ConfigError, match="immediate_grad_update is 1, which DeepSpeed would read"):
        prepare_run(case, tmp_path, tmp_path, World())
