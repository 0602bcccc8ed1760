"""The words of the sample corpus: the words of each theme, and the words without a theme.

A word of a theme occurs in no other theme, so a single word identifies the theme. Each theme has a
man, a woman, a place, two actions with their objects, the tool of the actions, and one more thing.
Plural subjects use the word for the man. Korean nouns have no particles, and Korean verbs end in -고.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Word:
    """One word in both languages."""

    en: str
    ko: str


@dataclass(frozen=True, slots=True)
class Theme:
    """The words of one theme; verb N of `verbs` takes object N of `objects`."""

    man: Word
    woman: Word
    place: Word
    objects: tuple[Word, Word]
    verbs: tuple[Word, Word]
    tool: Word
    thing: Word


def _theme(line: str) -> Theme:
    words = [Word(*pair.replace("_", " ").split("/")) for pair in line.split()]
    man, woman, place, object_1, verb_1, object_2, verb_2, tool, thing = words
    return Theme(man, woman, place, (object_1, object_2), (verb_1, verb_2), tool, thing)


# man, woman, place, object, verb, object, verb, tool, thing
_LINES = """
chef/주방장 waitress/종업원 kitchen/부엌 onion/양파 slicing/썰고 potato/감자 peeling/깎고 knife/칼 stove/난로
sailor/선원 captain/선장 harbor/항구 net/그물 mending/꿰매고 boat/돛단배 tying/묶고 rope/밧줄 lighthouse/등대
doctor/의사 nurse/간호사 hospital/병원 wound/상처 treating/치료하고 ankle/발목 wrapping/감싸고 bandage/붕대 bed/침대
pianist/연주자 singer/가수 theater/극장 melody/선율 playing/켜고 song/가곡 rehearsing/연습하고 violin/악기 stage/무대
farmer/농부 shepherd/목동 field/들판 wheat/밀 harvesting/거두고 hay/건초 stacking/쌓고 fork/쇠스랑 barn/헛간
pupil/학생 teacher/교사 classroom/교실 problem/문제 solving/풀고 letter/글자 writing/쓰고 chalk/분필 blackboard/칠판
lawyer/변호사 judge/판사 court/법정 verdict/판결 announcing/알리고 witness/증인 questioning/캐묻고 document/서류 jury/배심원
scholar/학자 librarian/사서 library/도서관 novel/소설 reading/읽고 manuscript/원고 copying/베끼고 lamp/등불 shelf/책장
hunter/사냥꾼 ranger/산지기 forest/숲 deer/사슴 tracking/쫓고 wolf/늑대 catching/잡고 rifle/총 oak/참나무
baker/제빵사 grandmother/할머니 bakery/빵집 dough/반죽 kneading/치대고 bread/빵 baking/굽고 flour/밀가루 oven/화덕
mechanic/정비사 driver/운전사 garage/차고 engine/엔진 repairing/고치고 tire/바퀴 changing/갈고 wrench/공구 truck/트럭
king/왕 queen/왕비 palace/궁전 treaty/조약 signing/맺고 decree/칙령 sealing/봉하고 stamp/도장 throne/왕좌
soldier/병사 general/장군 fortress/요새 enemy/적군 attacking/공격하고 bridge/다리 defending/지키고 cannon/대포 flag/깃발
gardener/정원사 florist/꽃장수 garden/정원 rose/장미 planting/심고 soil/흙 digging/파고 shovel/삽 fountain/분수
apprentice/제자 painter/화가 studio/화실 portrait/초상화 sketching/그리고 canvas/화폭 coloring/칠하고 brush/붓 easel/받침대
accountant/회계사 banker/은행원 bank/은행 money/돈 counting/세고 loan/대출 approving/승인하고 ledger/장부 vault/금고
striker/선수 coach/감독 stadium/경기장 ball/공 passing/넘기고 match/시합 winning/이기고 boots/축구화 bench/벤치
tailor/재단사 seamstress/재봉사 shop/양복점 dress/치마 sewing/깁고 button/단추 fixing/달고 needle/바늘 mirror/거울
miner/광부 geologist/지질학자 mine/광산 rock/바위 breaking/부수고 coal/석탄 hauling/나르고 pick/곡괭이 tunnel/굴
assistant/조수 chemist/화학자 laboratory/실험실 acid/용액 heating/데우고 powder/가루 mixing/섞고 flask/시험관 microscope/현미경
clown/광대 acrobat/곡예사 circus/곡마단 lion/사자 taming/길들이고 elephant/코끼리 riding/타고 whip/채찍 tent/천막
editor/편집자 reporter/기자 newsroom/신문사 article/기사 typing/치고 headline/제목 choosing/고르고 keyboard/자판 printer/인쇄기
astronaut/우주인 physicist/물리학자 observatory/천문대 comet/혜성 observing/관측하고 galaxy/은하 measuring/재고 telescope/망원경 moon/달
monk/수도사 nun/수녀 monastery/수도원 prayer/기도문 whispering/속삭이고 candle/촛불 lighting/밝히고 incense/향불 altar/제단
"""
THEMES = tuple(_theme(line) for line in _LINES.strip().splitlines())
# By tense: past, present, future.
TIMES = (
    (Word("yesterday", "어제"), Word("earlier", "아까"), Word("once", "예전에")),
    (Word("today", "오늘"), Word("now", "지금"), Word("nowadays", "요즘")),
    (Word("tomorrow", "내일"), Word("soon", "곧"), Word("later", "나중에")),
)
AUXILIARIES_EN = (("was", "were"), ("is", "are"), ("will be", "will be"))
AUXILIARIES_KO = ("있었다", "있다", "있을 것이다")
ADJECTIVES = (
    Word("small", "작은"),
    Word("big", "커다란"),
    Word("strange", "이상한"),
    Word("famous", "유명한"),
    Word("beautiful", "아름다운"),
    Word("new", "새로운"),
)
ADVERBS = (
    Word("quietly", "조용히"),
    Word("slowly", "천천히"),
    Word("carefully", "조심스럽게"),
    Word("happily", "즐겁게"),
    Word("again", "다시"),
    Word("alone", "혼자"),
)
# His, her, their.
POSSESSIVES = (Word("his", "그의"), Word("her", "그녀의"), Word("their", "그들의"))
