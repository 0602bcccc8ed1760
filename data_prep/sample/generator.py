"""A generated Korean-English parallel corpus that a small encoder learns in minutes.

Each sentence has a hidden theme (kitchen, harbour, …) that decides its content words; between them
stand words of no theme, so the neighbours of a content word tell its part of speech and only the
other content words tell the word. Subject, pronoun and auxiliary agree over a distance, in gender,
number and tense. So a model that reads the sentence beats one that counts neighbours, and one that
sees each token alone. The bits come from a keyed hash: the text is the same for ever.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bertds.data.rng import derive_key, splitmix64
from bertds.io.atomic import atomic_write
from data_prep.output.manifest import MADE_NAME, is_up_to_date, write_manifest
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

FORMAT = 1  # raised when the same seed would give other sentences
MAN, WOMAN, MEN = range(3)
SINGULAR, PLURAL = range(2)


# What is drawn for a sentence, and among how many.
_DRAWS = {
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
    """What one sentence says, in no language yet."""

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
        """What it is done to."""
        return self.theme.objects[self.action]

    @property
    def verb(self) -> Word:
        """What is done."""
        return self.theme.verbs[self.action]

    @property
    def other(self) -> Word:
        """The person of the theme who is not the subject."""
        return self.theme.man if self.person == WOMAN else self.theme.woman


def write_sample(out: Path, sentences: int, seed: int) -> None:
    """Write `out/ko.txt` and `out/en.txt`, lines that translate each other; seconds.

    Raises:
        ValueError: A number is out of range.
        FileExistsError: The files are there, but others.
    """
    if sentences < 1:
        raise ValueError(f"--sentences is {sentences}, at least 1 is wanted")
    if seed < 0:
        raise ValueError(f"--seed is {seed}, 0 or more is wanted")
    recipe = {"format": FORMAT, "sentences": sentences, "seed": seed}
    paths = {"ko": out / "ko.txt", "en": out / "en.txt"}
    if is_up_to_date(out / MADE_NAME, [*paths.values()], recipe):
        print(f"{out}: finished already, nothing to do")
        return
    out.mkdir(parents=True, exist_ok=True)
    write_manifest(out / MADE_NAME, recipe, {"lines": sentences})
    scenes = draw_scenes(sentences, seed)
    for language, write_sentence in {"ko": korean, "en": english}.items():
        with atomic_write(paths[language]) as file:
            file.writelines(f"{write_sentence(scene)}\n".encode() for scene in scenes)
    print(f"{paths['ko']}, {paths['en']}: {sentences:,} sentences each")


def draw_scenes(count: int, seed: int) -> list[Scene]:
    """The scenes of a seed; the first ones do not depend on `count`."""
    numbers = np.arange(count)
    drawn = {
        name: _uniform(derive_key(seed, stream), numbers, size)
        for stream, (name, size) in enumerate(_DRAWS.items())
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
            *drawn.values(), strict=True
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
    """A Korean noun with the particle that its last syllable wants.

    A syllable's code point modulo 28 tells its final consonant, 0 for none (Unicode, chapter 3.12);
    `로` also follows ㄹ.
    """
    final = (ord(noun[-1]) - ord("가")) % 28
    is_open = final == 0 or (after_vowel == "로" and final == 8)
    return noun + (after_vowel if is_open else after_consonant)


def _uniform(key: int, numbers: npt.NDArray[np.int64], size: int) -> list[int]:
    """For each number one of `range(size)`, by multiply and shift."""
    high = splitmix64(key, numbers) >> np.uint64(32)
    drawn: list[int] = ((high * np.uint64(size)) >> np.uint64(32)).tolist()
    return drawn


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


# A sentence frame in each language, in the same order.
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
