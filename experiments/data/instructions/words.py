"""The words that checkable instructions are made of: common English, which is nobody's.

No word here is a word of an instruction, but for what is GLUE and for opposites: what is held out is not read in a phrasing either.
"""

from experiments.data.instructions.more_words import ACTS, MATTERS, OTHERS, parted

BEINGS = parted(  # each with a plural in -s, as THINGS
    "actor artist aunt author badger baker barber bear beaver bee beetle beggar bird boy brother builder bull butler camel captain carpenter cat "
    "chef chicken clown cook cousin cow crow dancer doctor dog dolphin donkey dragon driver duck eagle elephant falcon farmer friend frog "
    "gardener ghost giraffe girl goat grocer guard guest hamster hawk hedgehog hen hermit horse hunter janitor kangaroo king kitten knight lamb "
    "lawyer leopard lion lizard mayor merchant miner mole monk monkey mother mule neighbor nurse otter owl painter panther parrot peacock peasant "
    "penguin pig pigeon pilot pirate plumber poet prince puppet queen rabbit raven rider robot rooster sailor scholar scout shark shepherd singer "
    "sister snake soldier spider squirrel stranger student tailor teacher tiger toad traveler tutor turtle uncle visitor waiter weaver whale "
    "widow wizard worker zebra"
)
THINGS = parted(
    "anchor apple apron arrow badge bag ball banana bandage banner barrel basket bean bed bell belt blanket blouse board boat book boot bottle "
    "bowl bracelet brick broom bucket bulb button cable cake calendar camera candle cannon canoe cape carpet carrot cart chain chair cheese clock "
    "cloak coat coin collar comb cookie cord cradle crate crayon crown cup curtain cushion dagger desk diamond doll door drawer drill drum "
    "earring egg engine envelope fan faucet feather fence flag flower flute fork gate glove grape guitar hammer hanger harp hat helmet hook hose "
    "jacket jar jewel jug kettle key kite ladder lamp lantern lemon lid locket magnet map mask mirror mop motor mug nail napkin necklace needle "
    "nest oar onion oven paddle pan parcel pea pear pearl pebble pen pencil piano picture pillow pipe plate pump quilt racket radio razor ribbon "
    "ring robe rocket rope rug ruler saddle sandal saucer scooter sculpture seed shawl shell shield ship shirt shoe shovel sickle sled sleeve "
    "slipper sock sofa spade sponge spoon stamp statue stick stool stove suitcase sweater sword table tablet tank teacup teapot telescope tent "
    "ticket tile towel train tray trumpet trunk tube vase vest violin wagon wallet wand wheel whip whistle window wreath zipper"
)
TRAITS = parted(  # of beings
    "angry bored bold brave busy calm careful cheerful clever clumsy curious daring eager fearless fierce friendly funny gentle gloomy graceful "
    "greedy grumpy handsome happy hungry humble jealous jolly kind lazy lively lonely loyal lucky merry modest nervous noisy patient playful "
    "polite proud quick quiet restless rude selfish shy silent skilled sleepy strong stubborn thankful thirsty timid tired weary wild wise witty "
    "young"
)
LOOKS = parted(  # of things
    "ancient blue bright broken brown cheap costly cracked crimson crooked curved damp dark dirty dusty empty expensive faded fancy filthy flat "
    "fragile fresh golden grand green grey heavy hidden hollow huge icy lovely massive messy muddy narrow oily old pale pink plain polished "
    "precious pretty purple rare red rotten rusty sandy scarlet sharp shiny silver simple slim small smooth soft square steep sticky strange "
    "striped sturdy tall tattered thin tidy tiny torn ugly violet warm wet white wide wooden worn yellow"
)
DONE = parted(  # past tense, of a being to a thing
    "admired borrowed bought built burned carried chose cleaned collected covered damaged delivered destroyed discovered dragged drew dropped "
    "examined fetched fixed forgot found grabbed held hid inspected kept kicked lifted lost mended moved owned packed painted passed preferred "
    "protected pulled pushed raised reached received repaired ruined saved selected shook spotted stole studied threw touched traded treasured "
    "wanted washed wiped wrapped"
)
MET = parted(  # past tense, of a being to another
    "amused annoyed avoided comforted forgave frightened greeted helped ignored invited loved missed noticed obeyed praised recognized rescued "
    "saw scared surprised teased thanked trusted visited warned watched welcomed"
)
NAMES = parted(
    "Ada Alice Amos Anna Anton Arthur Bella Ben Bruno Carl Cecil Clara Cora David Daniel Diana Dora Edgar Ella Emil Emma Erik Ernest Eva Felix "
    "Fiona Fred George Gina Greta Hans Harry Helen Henry Hilda Hugo Ida Irene Isabel Ivan Jacob Jane Joan John Julia Karl Kate Laura Leo Leon "
    "Linda Lucy Maria Martin Mary Milo Nadia Nina Nora Norman Olivia Oscar Otto Paul Peter Philip Rita Robert Rosa Ruth Sara Simon Sofia Stella "
    "Theo Thomas Tina Vera Victor Walter Zoe"
)
PLACES = parted(
    "attic bakery barn basement cafe castle cave cellar chapel church cinema classroom clinic cottage courtyard desert dungeon factory field "
    "forest gallery garage garden hall hallway harbor hospital hotel jungle kitchen laundry library lobby market meadow mill museum nursery "
    "office orchard palace pantry park pharmacy prison quarry school shed shop stable stadium station studio temple theater tower tunnel valley "
    "village vineyard workshop yard zoo"
)
TIMES = parted(  # how a sentence begins
    "afterwards apparently certainly earlier elsewhere eventually everywhere finally formerly immediately indoors instantly lately later luckily "
    "maybe meanwhile nearby obviously occasionally often outdoors overnight perhaps previously probably rarely recently sadly seldom somehow "
    "sometimes somewhere soon suddenly surely today twice unfortunately upstairs usually yesterday"
)
MANNERS = parted(  # how a sentence begins or ends
    "accidentally angrily anxiously awkwardly boldly bravely calmly carefully carelessly cautiously cheerfully cleverly clumsily eagerly gently "
    "gladly gracefully happily hastily honestly kindly lazily nervously patiently playfully politely promptly proudly quickly quietly reluctantly "
    "secretly silently skillfully slowly smoothly swiftly tenderly thoughtfully wisely"
)
DETERMINERS = parted(  # with "a" and "the", how a sentence begins
    "another each every her his its my no our some that their this your"
)
PREPOSITIONS = parted(  # with "in" and "near"
    "above around behind beneath beside beyond inside outside past under"
)
GIVING = dict(
    pair.split(":")
    for pair in parted("gave:give sold:sell showed:show sent:send brought:bring lent:lend handed:hand offered:offer")
)
GLUE = (
    *parted("a an the in near and to was"),
    *GIVING,
    *GIVING.values(),
)  # of every part alike, as the words of instructions
ORDINALS = ("second", "third", "fourth")
COUNTS = {2: "two", 3: "three", 4: "four", 5: "five"}
OPPOSITES = tuple(
    parted(pair)
    for pair in parted(
        "hot cold,big small,good bad,old new,high low,long short,light dark,rich poor,fast slow,hard soft,wet dry,full empty,"
        "early late,open closed,strong weak,happy sad,loud quiet,thick thin,wide narrow,near far,up down,in out,left right,top bottom,"
        "day night,black white,true false,first last,always never,before after,above below,begin end,buy sell,give take,come go,"
        "find lose,push pull,love hate,war peace,friend enemy,life death,north south,east west,summer winter,clean dirty,safe dangerous,"
        "sweet sour,deep shallow,cheap expensive,brave cowardly,inside outside,front back,laugh cry,remember forget,arrive leave,"
        "accept refuse,ask answer,build destroy,rise fall,smooth rough,sharp blunt,ancient modern,asleep awake,alive dead,"
        "simple complicated,polite rude,noisy silent,public private,tight loose,straight crooked,more less,many few,"
        "add subtract,attack defend,borrow lend,careful careless,common rare,entrance exit,even odd,expand shrink,fail succeed,float sink,"
        "foolish wise,forward backward,freeze melt,generous stingy,guilty innocent,heaven hell,huge tiny,import export,include exclude,"
        "increase decrease,junior senior,kind cruel,major minor,male female,maximum minimum,natural artificial,often seldom,over under,"
        "past future,plus minus,positive negative,praise blame,present absent,pretty ugly,raise lower,same different,shout whisper,"
        "sick healthy,sunny cloudy,teach learn,together apart,indoor outdoor,victory defeat,visible invisible,wealth poverty,wild tame",
        ",",
    )
)
NOUNS = BEINGS + THINGS
WORDS = tuple(dict.fromkeys([*NOUNS, *TRAITS, *LOOKS, *ACTS, *MATTERS, *OTHERS]))  # of lists and of single words
