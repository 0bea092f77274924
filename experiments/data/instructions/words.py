"""The words that checkable instructions are made of: common English, which is nobody's."""


def _parted(text: str, mark: str | None = None) -> tuple[str, ...]:
    return tuple(text.split(mark))


NOUNS = _parted(  # each with a plural in -s
    "apple arrow badge bag ball banana barrel basket bean bear bed bell belt bird blanket board boat bone book boot bottle bowl brick "
    "bridge broom bucket button cabin cake camera candle carpet carrot cart castle cat chain chair cheese chicken clock cloud coat coin cookie "
    "corner cow cradle crown cup curtain desk dog doll donkey door dragon drawer drum duck eagle ear egg elbow engine eye farmer feather fence "
    "finger flag flower fork forest fountain frog garden gate ghost goat grape guitar hammer hand hat helmet hill horse house island jacket jar "
    "jewel key king kite ladder lake lamp leg lemon letter lion lock magnet map mask meadow mirror monkey moon mountain nail needle nest oar "
    "onion orange oven owl paper parrot pear pen pencil penguin piano picture pillow pirate planet plate pocket pond potato pump puppet queen "
    "rabbit ribbon ring river road robot rocket roof root rope rose sail seed shark shell ship shirt shoe shovel sister sock soldier spider "
    "spoon star stick stone stool street sword table teapot tent ticket tiger tower toy train tree trumpet tunnel turtle umbrella village "
    "violin wagon wall wheel window wing wizard zebra"
)
ADJECTIVES = _parted(
    "ancient angry blue brave bright broken brown calm careful clever cloudy cold crooked curious dark dusty eager empty fancy fast friendly "
    "funny gentle giant golden grand green grey happy heavy hidden hollow honest huge hungry icy kind lazy little lonely loud lucky magic merry "
    "modern muddy narrow noisy old orange pale patient pink plain polite proud purple quick quiet rare red round rusty sandy secret sharp shiny "
    "short shy silent silver simple sleepy slim slow small smooth soft square steep strange strong sunny sweet tall thin tidy tiny warm wet "
    "white wide wild wise wooden yellow young"
)
VERBS = _parted(  # past tense, with an object
    "admired bought built caught carried chased cleaned counted covered crossed drew dropped entered fixed followed found guarded heard held "
    "hid kept kicked lifted liked lost loved made missed moved opened painted passed praised pulled pushed raised reached repaired saved shook "
    "spotted stole touched trusted turned visited wanted washed watched"
)
OTHERS = _parted(  # for lists alone
    "above across almost alone always autumn because before begin behind below between beyond breathe bring butter carry center change cotton "
    "dance dinner dream early earth either enough escape evening every fifty follow forget gather given grow harvest healthy history holiday "
    "hundred imagine inside invite january jump kitchen language laugh learn listen machine market measure memory middle minute monday morning "
    "music nature never night nothing number ocean often outside perfect person pretty promise purpose question reason remember rhythm river "
    "rough science season second seven shadow silence sing slowly speak spring station story summer sunday sunset swim teach thunder today "
    "together tomorrow travel twelve under until usual velvet visitor voice walk water weather welcome whisper winter wonder work write "
    "yesterday"
)
WORDS = tuple(dict.fromkeys([*NOUNS, *ADJECTIVES, *OTHERS]))
OPPOSITES = tuple(
    _parted(pair)
    for pair in _parted(
        "hot cold,big small,good bad,old new,high low,long short,light dark,rich poor,fast slow,hard soft,wet dry,full empty,"
        "early late,open closed,strong weak,happy sad,loud quiet,thick thin,wide narrow,near far,up down,in out,left right,top bottom,"
        "day night,black white,true false,first last,always never,before after,above below,begin end,buy sell,give take,come go,"
        "find lose,push pull,love hate,war peace,friend enemy,life death,north south,east west,summer winter,clean dirty,safe dangerous,"
        "sweet sour,deep shallow,cheap expensive,brave cowardly,inside outside,front back,laugh cry,remember forget,arrive leave,"
        "accept refuse,ask answer,build destroy,rise fall,smooth rough,sharp blunt,ancient modern,asleep awake,alive dead,"
        "simple complicated,polite rude,noisy silent,public private,tight loose,straight crooked,more less,many few",
        ",",
    )
)
NAMES = _parted(
    "Ada Amos Anna Ben Bruno Carl Cora Daisy Dora Ed Ella Emil Erik Eva Felix Flora Fred Gina Greta Hans Henry Hilda Hugo Ida Iris Ivan Jack "
    "Jane Joan John Karl Kate Leo Lily Lucy Mark Mary Max Mia Milo Nina Nora Oscar Otto Paul Rita Rosa Ruth Sam Sara Tina Tom Vera Victor "
    "Walter Zoe"
)
PLACES = _parted(
    "attic bakery barn cave cellar church courtyard factory farm field gallery garage hall harbor hospital hotel kitchen library market museum "
    "office palace park playground quarry school shop stable station studio temple theater tower valley workshop yard"
)
GIVING = {"gave": "give", "sold": "sell", "showed": "show", "sent": "send", "brought": "bring", "lent": "lend"}
ORDINALS = ("second", "third", "fourth")
COUNTS = {2: "two", 3: "three", 4: "four", 5: "five"}
