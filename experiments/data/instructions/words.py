"""The words that checkable instructions are made of: common English, which is nobody's.

No word here is a word of an instruction, but for what is GLUE and for opposites: what is held out is not read in a phrasing either.
"""

from experiments.data.instructions.common_words import COMMON
from experiments.data.instructions.more_words import ACTS, MATTERS, OTHERS, parted

BEINGS = parted(  # each with a plural in -s, as THINGS
    "acrobat actor admiral agent alligator antelope archer architect artist athlete aunt author baboon badger baker banker barber barrister bat "
    "bear beaver bee beetle beggar bird bishop bluebird boxer boy broker brother builder bull bulldog burglar butler camel camper captain "
    "cardinal carpenter cat caterer cavalier chef chicken clerk clown cobbler colonel comedian composer convict cook corporal courier cousin cow "
    "coyote cricket critic crocodile crow curator customer dancer dentist designer detective diver doctor dog dolphin donkey dragon driver "
    "drummer duck duke eagle editor elder elephant emperor engineer explorer falcon falconer farmer ferret fiddler fighter florist friend frog "
    "gambler gander gardener gazelle ghost giraffe girl gladiator goat goblin gopher gorilla governor grocer guard guest guitarist gull hamster "
    "hawk hedgehog hen hermit heron hiker horse hound hunter inspector inventor jaguar janitor jeweler jockey joker juggler kangaroo keeper king "
    "kitten knight koala laborer lamb landlord lawyer leopard librarian lion lizard llama lobster locksmith magician magpie maid manager mariner "
    "mason mayor mechanic merchant messenger miner minister minstrel mole monk monkey mother mule musician navigator neighbor novelist nurse "
    "officer ogre oracle orphan otter owl painter panda panther parrot partner passenger peacock peasant peddler pelican penguin pianist pig "
    "pigeon pilot pirate plumber poet porter potter preacher president prince printer prisoner producer professor prophet puppet queen rabbit "
    "racer ranger raven rebel referee reporter rider robot rooster runner sailor salmon scholar scout sculptor seagull senator sergeant servant "
    "shark shepherd sheriff singer sister skater smuggler snake soldier sparrow spectator spider squire squirrel stallion steward stranger "
    "student surgeon swan swimmer tailor teacher tenor thinker tiger toad toddler tourist trader trainer traveler treasurer trumpeter turtle "
    "tutor uncle vendor viking villager violinist visitor volunteer vulture waiter warden warrior weasel weaver whale widow wizard worker "
    "wrestler writer zebra"
)
THINGS = parted(
    "album almond ambulance anchor apple apricot apron armchair arrow asterisk axle badge bag bagel ball balloon banana bandage banner barrel "
    "basket bathtub bead beam bean bed bell belt bicycle billboard binder blanket blouse board boat bolt bonnet book bookcase boot bottle boulder "
    "bouquet bowl bracelet bracket brick briefcase broom broth bucket bulb bun bureau button cabinet cable cake calendar camera candle cannon "
    "canoe cape car carpet carriage carrot cart chain chair charcoal cheese chisel cigar clarinet clip clipboard cloak clock club coat coconut "
    "coin collar comb computer cookie cord corkscrew cot counter cracker cradle crane crate crayon crown crystal cucumber cup cupboard curtain "
    "cushion cylinder dagger dart desk dial diamond doll door doormat doughnut drawer dressing drill drum duster earring easel egg elevator "
    "emerald engine envelope eraser fan faucet feather fence fern fiddle fig file fishbowl flag flagpole flask flower flute folder football "
    "footstool fork frame freezer funnel furnace garland gate gem globe glove goblet gong grape grenade grill guitar hairpin hammer hammock "
    "hamper handbag handcart hanger harmonica harp hat headband heater helmet hinge hoe hook hose iceberg icicle jacket jar jewel jigsaw journal "
    "jug kettle key keyboard kite knapsack knob lace ladder lamp lantern laptop lemon lever lid lifeboat lightbulb locket log loom magnet "
    "magnifier mallet map marker mask mat medal melon meteor milestone mirror mitten moccasin monument mop motor mousetrap muffin mug mushroom "
    "nail napkin necklace needle nest notebook nutmeg oar oboe omelet onion orange ornament outfit oven paddle padlock pan pancake parachute "
    "parasol parcel passport pea peanut pear pearl pebble pedal pen pencil pendant perfume petal phone piano picture pillow pin pinecone pinwheel "
    "pipe pitcher pizza placard planet plank plate plow plug plum pocket portrait poster pot propeller pump pumpkin purse pyramid quilt racket "
    "radio raft raincoat raisin rake ramp razor receipt ribbon rifle ring robe rocket rod roller rope rudder rug ruler sack saddle sail sandal "
    "satchel saucer saxophone scarecrow scooter screen screw scroll sculpture seatbelt seed sewer shawl shell shield ship shirt shoe shovel "
    "shutter sickle sign signpost skillet skirt slate sled sleeve slipper snowball snowshoe sock sofa spade spatula spear spindle sponge spoon "
    "spotlight sprinkler spur stamp stapler statue stencil stick stocking stool stove stroller submarine suitcase sunflower surfboard sweater "
    "sword syringe table tablet tangerine tank tape tassel teacup teapot telescope tent tepee terrace thimble thread throne tiara ticket tie tile "
    "tire toaster toilet towel tractor trailer train tray trolley trowel trumpet trunk tube tugboat tulip turban turnip ukulele umbrella vacuum "
    "van vase vehicle veil vessel vest violin waffle wagon wallet walnut wand wardrobe washer wheel whip whistle wick wig windmill window wire "
    "wrapper wreath yacht yoke zipper"
)
TRAITS = parted(  # of beings
    "ambitious angry attentive bashful bold bored bossy brave busy calm careful cautious charming chatty cheerful clever clumsy comical contented "
    "courteous crafty cranky cunning curious daring defiant delighted devoted diligent dishonest dreamy eager efficient energetic envious excited "
    "faithful famished fearless fierce forgetful frantic friendly funny furious gentle giddy gloomy glum graceful greedy grouchy grumpy gullible "
    "handsome happy heroic hopeless humble hungry impatient impolite impulsive irritable jealous jolly joyful kind knowing lazy lenient lively "
    "lonely loyal lucid lucky merry miserable modest moody mournful nervous noisy obedient obnoxious observant outspoken overjoyed patient "
    "peaceful playful pleasant polite pompous powerful proud punctual puzzled quick quiet radiant rational reckless reliable resentful restless "
    "romantic rude ruthless scornful selfish sensible sensitive serene shameless shrewd shy silent sincere skeptical skilled sleepy sociable "
    "sorrowful spirited spiteful strong stubborn sulky surly tactful talented talkative tearful thankful thirsty timid tired tireless tolerant "
    "tranquil troubled trusting truthful unkind upright vain valiant vengeful vicious vigorous virtuous vivacious watchful weary wild wise "
    "wistful witty worried young zealous"
)
LOOKS = parted(  # of things
    "aged ancient aromatic battered beautiful bent blackened bleak blue blurry bony bright broken brown bulky bumpy burnt buttery carved cheap "
    "chilly chipped circular colorful colorless cool corroded costly cracked creamy crimson crooked crumbling crunchy crusty curly curved damp "
    "dark dazzling delicious dented dim dirty dusty edible elaborate empty enchanted engraved expensive faded fake fancy filthy fine flat flimsy "
    "floral fluffy foggy folded forgotten fragile frayed freezing fresh frilly frozen furry fuzzy gigantic glazed gleaming glossy gnarled golden "
    "grand green grey grimy gritty grubby hairy handmade hazy heated heavy hidden hollow homemade horned huge icy inflated jagged juicy jumbo "
    "knotted leafy leaky limp lopsided lovely luxurious majestic marvelous massive messy metallic mighty misty moist moldy monstrous mossy muddy "
    "murky musty narrow nimble oblong oily old opaque ornate padded pale patched peeling pink plain plush pointed polished portable precious "
    "pretty puffy pungent purple quaint ragged rare red reddish refined rickety ridged rocky rotten rubbery rugged rustic rusty sandy scarlet "
    "scented scratched scruffy shabby shaded shaggy sharp shattered shiny shrunken silken silky silver simple sleek slender slick slim slimy "
    "slippery small smooth snowy soaked soft soggy sparkling speckled spicy spiky spiral spongy spotless square stained steep sticky stony "
    "strange streaked striped stunning sturdy stylish sunken swollen tall tangled tarnished tasty tattered thin thorny tidy tinted tiny torn "
    "toxic trim twisted ugly uneven untidy varnished velvety vintage violet warm wavy wet white wicker wide wobbly wooden worn wrinkled yellow "
    "yellowish"
)
DONE = parted(  # past tense, of a being to a thing
    "abandoned accepted adjusted admired adored analyzed approved arranged assembled attached attacked balanced banged blamed blocked boiled "
    "borrowed bought broke brushed built buried burned captured carried caught celebrated chased checked chopped chose claimed cleaned climbed "
    "collected colored combined compared concealed corrected covered crossed crushed damaged declined decorated dedicated defended delivered "
    "demanded described designed desired destroyed discovered dismantled displayed distributed divided donated dragged drew dropped dumped dusted "
    "emptied enjoyed examined exchanged explored exposed fastened favored feared fed fetched fixed flattened forgot found framed grabbed guarded "
    "guided hammered handled hated held hid hired hugged illustrated imagined improved inherited inspected installed invented investigated judged "
    "kept kicked knocked labeled laid launched licked lifted loaded located loosened lost lowered mailed maintained measured melted mended "
    "mentioned mocked modified moved needed neglected nudged observed opened ordered organized overlooked overturned owned packed painted passed "
    "photographed planted possessed poured preferred prepared presented preserved produced promised promoted protected pulled purchased pushed "
    "raised reached recalled received recommended recorded recycled refused released remembered renamed rented repainted repaired reported "
    "requested resembled restored retrieved returned revealed rolled rubbed ruined saved scrubbed sealed searched secured seized selected "
    "separated shared shifted shook sketched skipped slammed smashed smelled sought spilled spotted spun squeezed stacked stamped stitched stole "
    "stored stretched studied supplied supported swapped swung tasted tested threw tied tilted tore tossed touched traced tracked traded "
    "transported treasured trimmed uncovered unloaded unlocked unpacked unwrapped valued viewed wanted washed waved weighed wiped wore wrapped "
    "wrecked"
)
MET = parted(  # past tense, of a being to another
    "accompanied accused addressed advised amazed amused annoyed applauded approached astonished avenged avoided bothered bullied challenged "
    "cheered comforted consoled consulted contacted convinced cured deceived despised disliked disturbed doubted embarrassed encouraged "
    "entertained envied escorted faced fascinated fooled forgave fought frightened greeted helped hosted humored ignored imitated impressed "
    "inspired insulted interrupted interviewed invited kissed loved missed mistrusted noticed nursed obeyed offended outran overheard persuaded "
    "pestered pitied pleased praised punished recognized rescued respected saw scared scolded served shocked summoned surprised suspected teased "
    "tempted thanked threatened tickled tolerated tricked trusted visited warned watched welcomed"
)
NAMES = parted(
    "Abigail Ada Adam Adele Adrian Agatha Agnes Alan Albert Alexander Alfred Alice Alma Amanda Amelia Amos Amy Andrea Andrew Angela Anna Annabel "
    "Anthony Anton Archie Arnold Arthur Astrid Audrey August Aurora Barbara Barry Beatrice Bella Ben Benjamin Bernard Bertha Betty Blake Bonnie "
    "Boris Brenda Brian Bridget Bruce Bruno Byron Caleb Calvin Camilla Carl Carla Carmen Caroline Casper Catherine Cecil Cedric Celia Charles "
    "Charlotte Chester Chloe Christine Claire Clara Clarence Claude Clifford Colin Connie Conrad Cora Cynthia Cyril Daisy Damian Daniel Daphne "
    "Darwin David Debbie Dennis Derek Desmond Diana Dominic Donald Dora Doris Dorothy Douglas Duncan Dylan Edgar Edith Edmund Edna Edward Edwin "
    "Elaine Eleanor Elias Elisa Elizabeth Ella Elliot Elmer Elsa Emil Emily Emma Enid Eric Erik Ernest Esther Ethan Ethel Eugene Eva Evelyn Ezra "
    "Fabian Felicity Felix Ferdinand Fiona Flora Florence Francis Franklin Fred Freda Frederick Gabriel Gavin Gemma Geoffrey George Georgia "
    "Gerald Gertrude Gilbert Gina Gladys Gloria Gordon Graham Gregory Greta Gwen Hans Harold Harriet Harry Harvey Hazel Heather Hector Helen "
    "Henry Herbert Herman Hilda Homer Horace Howard Hubert Hugo Humphrey Ian Ida Ignatius Imogen Ingrid Irene Iris Irma Isaac Isabel Isidore Ivan "
    "Jack Jacob James Jane Janet Jasper Jean Jeffrey Jennifer Jeremy Jerome Jessica Jill Joan Joel John Jonah Jonathan Joseph Josephine Joshua "
    "Joyce Judith Julia Julian Juliet Justin Karen Karl Kate Keith Kenneth Kevin Kirsten Laura Laurence Lawrence Leah Leo Leon Leonard Leopold "
    "Leslie Lewis Lillian Linda Lionel Lisa Lloyd Lois Lorenzo Louis Louise Lucy Luke Lydia Mabel Magnus Malcolm Marcus Margaret Maria Marian "
    "Marjorie Marlene Martha Martin Mary Matilda Matthew Maurice Max Maxine Melissa Mervin Michael Mildred Miles Millie Milo Minerva Miranda "
    "Molly Monica Morris Muriel Myra Nadia Nancy Naomi Natalie Nathan Neil Nellie Nicholas Nicole Nigel Nina Noah Noel Nora Norman Octavia Oliver "
    "Olivia Ophelia Orson Oscar Oswald Otto Pamela Pascal Patricia Patrick Paul Paula Penelope Percy Peter Philip Phoebe Phyllis Polly Priscilla "
    "Prudence Quentin Rachel Ralph Ramona Raymond Rebecca Regina Reginald Rex Richard Rita Robert Roderick Roger Roland Ronald Rosa Rosalind "
    "Rosemary Roy Rudolf Rufus Rupert Russell Ruth Sabrina Sally Samantha Samson Samuel Sandra Sara Sebastian Selma Sheila Sidney Simon Sofia "
    "Sophie Stanley Stella Stephen Steven Susan Sylvia Tabitha Tamara Ted Terence Teresa Thelma Theo Thomas Timothy Tina Toby Tracy Ursula "
    "Valerie Vera Vernon Veronica Victor Vincent Viola Virginia Vivian Wallace Walter Wanda Wendy Wilbur Wilfred William Winifred Winston Xavier "
    "Yvonne Zachary Zelda Zoe"
)
PLACES = parted(
    "abbey academy airport alcove amphitheater aquarium arcade archive arena attic auditorium avenue bakery ballroom barn basement bathroom bay "
    "bazaar bedroom boutique brewery cafe campsite canteen castle cathedral cave cavern cellar cemetery chamber chapel church cinema classroom "
    "clearing clinic cloister closet college compound conservatory convent cooperage corridor cottage courthouse courtyard crypt deli depot "
    "desert diner dockyard dormitory dungeon embassy factory farmhouse farmyard field forest fort fortress foundry foyer gallery garage garden "
    "greenhouse grove gymnasium hall hallway hamlet hangar harbor haven highway hillside hospital hostel hotel hut igloo inn institute jungle "
    "kitchen laboratory lagoon laundry library lighthouse lobby lodge lounge mansion marina market marsh meadow mill mine monastery morgue mosque "
    "motel museum nightclub nursery oasis observatory office orchard outpost palace pantry park parlor passageway pavilion pharmacy playground "
    "plaza porch prison pub quarry ranch refuge resort restaurant sanctuary sawmill school seaport shed shipyard shop shrine skyscraper smithy "
    "stable stadium stairwell station storehouse storeroom studio suburb subway supermarket swamp synagogue tavern temple terminal theater tower "
    "townhouse treehouse tunnel university valley vault veranda village vineyard warehouse waterfall wharf wilderness winery workshop yard zoo"
)
TIMES = parted(  # how a sentence begins
    "afterwards apparently certainly earlier elsewhere eventually everywhere finally formerly immediately indoors instantly lately luckily maybe "
    "meanwhile nearby obviously occasionally often outdoors overnight perhaps previously probably rarely recently sadly seldom somehow sometimes "
    "somewhere soon suddenly surely today twice unfortunately upstairs usually yesterday"
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
WORDS = tuple(
    dict.fromkeys([*NOUNS, *TRAITS, *LOOKS, *ACTS, *MATTERS, *OTHERS, *COMMON])
)  # of lists and of single words
