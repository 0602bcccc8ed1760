"""Generates a parallel Korean-English corpus that a small encoder learns in minutes.

Each sentence has a hidden theme, such as a kitchen or a harbor, that decides its content words.
Only words without a theme are adjacent to a content word. These neighbors therefore show its part
of speech, but only the other content words show which word it is. Subject, pronoun and auxiliary
agree in gender, number and tense over a distance. So a model that reads whole sentences beats a
model of adjacent tokens, which beats one of single tokens. The random choices are a keyed hash, so
the text never changes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bertds.data.rng import derive_key, splitmix64
from bertds.io.atomic import atomic_write
from data_prep.output.manifest import MANIFEST_NAME, is_up_to_date, write_manifest
from data_prep.sample.vocabulary import (
    ADJECTIVES,
    ADVERBS,
    AUXILIARIES_EN,
    AUXILIARIES_KO,
    POSSESSIVES,
    THEMES,
    TIMES,
    Theme,
    Word,
)

FORMAT = 1  # to be raised when the same seed gives other sentences
MAN, WOMAN, MEN = range(3)
SINGULAR, PLURAL = range(2)
# The random choices of a sentence, with the number of options of each.
_CHOICES = {
    "frame": 6,
    "theme": len(THEMES),
    "person": 3,
    "action": 2,
    "tense": 3,
    "time": 3,
    "adjective": len(ADJECTIVES),
    "adverb": len(ADVERBS),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """The content of one sentence, independent of the language."""

    frame: int
    theme: Theme
    person: int  # MAN, WOMAN or MEN
    action: int
    tense: int
    time: Word
    adjective: Word
    adverb: Word

    @property
    def possessive(self) -> Word:
        """His, her or their."""
        return POSSESSIVES[self.person]

    @property
    def object(self) -> Word:
        """The object of the action."""
        return self.theme.objects[self.action]

    @property
    def verb(self) -> Word:
        """The verb of the action."""
        return self.theme.verbs[self.action]

    @property
    def other(self) -> Word:
        """The person of the theme who is not the subject."""
        return self.theme.man if self.person == WOMAN else self.theme.woman


def write_sample(out: Path, sentences: int, seed: int) -> None:
    """Write `out/ko.txt` and `out/en.txt`, whose lines translate each other.

    Raises:
        ValueError: A number is out of range.
        FileExistsError: The files exist, but have other options.
    """
    if sentences < 1:
        raise ValueError(f"--sentences is {sentences}, expected at least 1")
    if seed < 0:
        raise ValueError(f"--seed is {seed}, expected 0 or more")
    recipe = {"format": FORMAT, "sentences": sentences, "seed": seed}
    paths = {"ko": out / "ko.txt", "en": out / "en.txt"}
    if is_up_to_date(out / MANIFEST_NAME, [*paths.values()], recipe):
        print(f"{out}: already finished, nothing to do")
        return
    out.mkdir(parents=True, exist_ok=True)
    write_manifest(out / MANIFEST_NAME, recipe, {"lines": sentences})
    scenes = draw_scenes(sentences, seed)
    for language, write_sentence in {"ko": korean, "en": english}.items():
        with atomic_write(paths[language]) as file:
            file.writelines(f"{write_sentence(scene)}\n".encode() for scene in scenes)
    print(f"{paths['ko']}, {paths['en']}: {sentences:,} sentences each")


def draw_scenes(count: int, seed: int) -> list[Scene]:
    """Draw the scenes of a seed; scene N does not depend on `count`."""
    numbers = np.arange(count)
    choices = {
        name: _uniform(derive_key(seed, stream), numbers, num_options)
        for stream, (name, num_options) in enumerate(_CHOICES.items())
    }
    return [
        Scene(
            frame=frame,
            theme=THEMES[theme],
            person=person,
            action=action,
            tense=tense,
            time=TIMES[tense][time],
            adjective=ADJECTIVES[adjective],
            adverb=ADVERBS[adverb],
        )
        for frame, theme, person, action, tense, time, adjective, adverb in zip(
            *choices.values(), strict=True
        )
    ]


def english(scene: Scene) -> str:
    """The sentence in English."""
    sentence = _ENGLISH[scene.frame](scene)
    return sentence[0].upper() + sentence[1:] + "."


def korean(scene: Scene) -> str:
    """The sentence in Korean."""
    return _KOREAN[scene.frame](scene) + "."


def with_particle(noun: str, after_consonant: str, after_vowel: str) -> str:
    """A Korean noun with the form of the particle that its last syllable requires.

    The final consonant of a syllable is its code point modulo 28, with 0 for none (Unicode
    Standard, section 3.12). `로` also follows ㄹ, which is 8.
    """
    final = (ord(noun[-1]) - ord("가")) % 28
    is_open = final == 0 or (after_vowel == "로" and final == 8)
    return noun + (after_vowel if is_open else after_consonant)


def _uniform(key: int, numbers: npt.NDArray[np.int64], size: int) -> list[int]:
    """A random element of `range(size)` for each number, by multiply and shift."""
    high = splitmix64(key, numbers) >> np.uint64(32)
    elements: list[int] = ((high * np.uint64(size)) >> np.uint64(32)).tolist()
    return elements


def _subject_en(scene: Scene) -> str:
    theme = scene.theme
    return (theme.man.en, theme.woman.en, theme.man.en + "s")[scene.person]


def _doing_en(scene: Scene) -> str:
    number = PLURAL if scene.person == MEN else SINGULAR
    return f"{AUXILIARIES_EN[scene.tense][number]} {scene.verb.en}"


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _subject_ko(scene: Scene, after_consonant: str, after_vowel: str) -> str:
    theme = scene.theme
    noun = (theme.man.ko, theme.woman.ko, theme.man.ko + "들")[scene.person]
    return with_particle(noun, after_consonant, after_vowel)


def _object_ko(scene: Scene) -> str:
    return with_particle(scene.object.ko, "을", "를")


def _tool_ko(scene: Scene) -> str:
    return with_particle(scene.theme.tool.ko, "으로", "로")


def _doing_ko(scene: Scene) -> str:
    return f"{scene.adverb.ko} {scene.verb.ko} {AUXILIARIES_KO[scene.tense]}"


def _in_place_en(s: Scene) -> str:
    return (
        f"{s.time.en} the {_subject_en(s)} in the {s.theme.place.en} {_doing_en(s)} the "
        f"{s.adjective.en} {s.object.en} with {s.possessive.en} {s.theme.tool.en} {s.adverb.en}"
    )


def _in_place_ko(s: Scene) -> str:
    return (
        f"{s.time.ko} 바로 그 {s.theme.place.ko}에서 그 {_subject_ko(s, '은', '는')} "
        f"{s.possessive.ko} {_tool_ko(s)} {s.adjective.ko} {_object_ko(s)} {_doing_ko(s)}"
    )


def _near_thing_en(s: Scene) -> str:
    return (
        f"{s.time.en} the {s.adjective.en} {_subject_en(s)} {_doing_en(s)} the {s.object.en} "
        f"near the {s.theme.thing.en} of the {s.theme.place.en} {s.adverb.en}"
    )


def _near_thing_ko(s: Scene) -> str:
    return (
        f"{s.time.ko} {s.adjective.ko} {_subject_ko(s, '이', '가')} 그 {s.theme.place.ko} 안의 "
        f"{s.theme.thing.ko} 옆에서 그 {_object_ko(s)} {_doing_ko(s)}"
    )


def _who_likes_en(s: Scene) -> str:
    like = "like" if s.person == MEN else "likes"
    return (
        f"the {_subject_en(s)} who {like} the {s.adjective.en} {s.theme.thing.en} {_doing_en(s)} "
        f"the {s.object.en} with {s.possessive.en} {s.theme.tool.en} {s.adverb.en} {s.time.en}"
    )


def _who_likes_ko(s: Scene) -> str:
    return (
        f"그 {s.adjective.ko} {with_particle(s.theme.thing.ko, '을', '를')} 좋아하는 "
        f"{_subject_ko(s, '은', '는')} {s.time.ko} {s.possessive.ko} {_tool_ko(s)} "
        f"그 {_object_ko(s)} {_doing_ko(s)}"
    )


def _from_place_en(s: Scene) -> str:
    return (
        f"with {s.possessive.en} {s.theme.tool.en} the {_subject_en(s)} from the "
        f"{s.theme.place.en} {_doing_en(s)} the {s.adjective.en} {s.object.en} {s.adverb.en} "
        f"{s.time.en}"
    )


def _from_place_ko(s: Scene) -> str:
    return (
        f"{s.possessive.ko} {_tool_ko(s)} 그 {s.theme.place.ko}에서 온 {_subject_ko(s, '이', '가')} "
        f"{s.time.ko} {s.adjective.ko} {_object_ko(s)} {_doing_ko(s)}"
    )


def _there_is_en(s: Scene) -> str:
    return (
        f"there is {_a(s.theme.thing.en)} in the {s.adjective.en} {s.theme.place.en} where the "
        f"{_subject_en(s)} {_doing_en(s)} the {s.object.en} {s.adverb.en} {s.time.en}"
    )


def _there_is_ko(s: Scene) -> str:
    return (
        f"{s.time.ko} 그 {_subject_ko(s, '은', '는')} 저 {with_particle(s.theme.thing.ko, '이', '가')} "
        f"있는 {s.adjective.ko} {s.theme.place.ko}에서 그 {_object_ko(s)} {_doing_ko(s)}"
    )


def _for_other_en(s: Scene) -> str:
    return (
        f"{s.time.en} the {_subject_en(s)} {_doing_en(s)} the {s.adjective.en} {s.object.en} "
        f"for the {s.other.en} with {s.possessive.en} {s.theme.tool.en} {s.adverb.en}"
    )


def _for_other_ko(s: Scene) -> str:
    return (
        f"{s.time.ko} 그 {_subject_ko(s, '이', '가')} 그 {with_particle(s.other.ko, '을', '를')} 위해 "
        f"{s.possessive.ko} {_tool_ko(s)} {s.adjective.ko} {_object_ko(s)} {_doing_ko(s)}"
    )


# The sentence frames of each language, in the same order.
_ENGLISH: tuple[Callable[[Scene], str], ...] = (
    _in_place_en,
    _near_thing_en,
    _who_likes_en,
    _from_place_en,
    _there_is_en,
    _for_other_en,
)
_KOREAN: tuple[Callable[[Scene], str], ...] = (
    _in_place_ko,
    _near_thing_ko,
    _who_likes_ko,
    _from_place_ko,
    _there_is_ko,
    _for_other_ko,
)
