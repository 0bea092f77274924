"""Words for lists alone: common English of 3 to 9 letters, in lower case."""


def parted(text: str, mark: str | None = None) -> tuple[str, ...]:
    """The parts of a text.

    >>> parted("one two")
    ('one', 'two')
    """
    return tuple(text.split(mark))


ACTS = parted(
    "accept achieve act admit adopt advise afford agree aim allow amaze appear apply approach argue arrive assist assume attack attempt attend "
    "avoid bake balance bark bathe beg behave believe belong bend bite blame bless blow boil borrow bounce bow breathe brush build burn bury "
    "calculate celebrate chase chat cheat cheer chew chop clap climb cling collect comfort compare complain complete confess confirm confuse "
    "consider cough crash crawl create creep cry dance deal decorate defend delay deliver demand depend describe deserve destroy develop dig "
    "discover discuss dislike dive divide doubt drag drain dream drift drip drown earn educate employ enjoy entertain escape exist expand expect "
    "explain explode explore express fade fail fasten feed fetch fight float flow fold forget forgive freeze frighten gather gaze glow grab greet "
    "grin groan grow guess handle happen hate haunt heal hesitate hop hope hover hurry imagine improve include increase inform insist instruct "
    "intend invent invite itch jog juggle jump kneel knit knock land laugh launch lean leap learn lick load manage march marry melt mend mix moan "
    "mourn multiply murmur nod obey observe obtain operate overcome owe pause peel perform permit persuade pinch plant play plead polish pour "
    "practice pray predict prefer prepare preserve pretend prevent proceed produce promise protect provide publish punch punish puzzle race rain "
    "react recall receive recognize record recover reduce refuse regret reject relax release rely remember repair reply rescue resist respond "
    "retire return rhyme rinse roar rob roll rub ruin rush satisfy scatter scold scrape scratch scream scrub seek separate serve settle shave "
    "shiver shout shrink sigh sing sip skate slap slip smash smell smile snatch sneeze sniff snore soak speak spill spin splash split spoil "
    "spread squeeze stare stay steer stir stitch stretch struggle stumble succeed suffer suggest suit supply support suppose surround survive "
    "suspect swallow swear sweep swell swim swing switch tame taste teach tear tease tempt threaten tickle toss trace trade trap travel tremble "
    "trust tug tumble twist undress unite unlock untie vanish visit wait wake walk wander warn waste weep whirl whisper wink wipe wish wobble "
    "wonder worry wrap wrestle yawn yell zoom"
)
MATTERS = parted(
    "ability absence accident account action activity advance advantage adventure advice affair age agency air alarm alley amount anger angle "
    "animal anxiety area army arrival art aspect attention attitude audience authority autumn average bacon baggage balcony bank bargain basis "
    "battle beach beard beast beauty behavior benefit birth birthday biscuit blade blood blossom body brain branch brass bread breakfast breath "
    "breeze bronze bubble budget burden bush business butter cabbage cabin canyon capacity career cause century ceremony champion chance channel "
    "chapter character charm chest childhood chocolate choice cinnamon circle citizen city clay climate cloth cloud coal coast coffee comedy "
    "command community company concept concert concern condition conduct contest context control copper corn corner cost cotton council country "
    "courage course cream credit crew crime crisis crop crowd culture cure custom cycle daughter dawn debate debt decade degree delight desire "
    "detail device diet dinner disaster disease distance district drama drought dust duty earth economy edge effect effort election emotion "
    "energy error estate evening event evidence exercise extent fabric failure faith fame family fashion fault favor feast feature fever fiction "
    "figure film finance flame flavor fleet flight flood flour focus fog food force fortune fountain freedom frost fruit fuel fun fur garlic gasp "
    "gift ginger glass glory glue goal gold gossip grain grass gravity ground group growth guide habit hair half harvest health heart heat height "
    "herb hill hint history holiday honey honor horizon hunger idea image impact income industry injury ink insect instinct iron island ivory "
    "joke joy juice justice kingdom knee knowledge labor lack lake lane language layer leader league leather lecture legend lesson level liberty "
    "linen lip liquid logic loss luck lumber lunch machine manner marble mass master material matter meal meat medicine melody memory mercy metal "
    "method milk million mineral minute miracle mischief mission mistake mixture moment money mood moon moonlight morning motion mountain mouth "
    "mud muscle music mustard mystery nation nature network news noise noon notice novel object ocean opinion origin oxygen pain pair panic paper "
    "party passage passion path pattern penalty people pepper period person phase plastic pleasure plot poem poetry poison policy pollution pond "
    "portion position powder power presence price pride problem process profit program progress project proof protein proverb pudding pulse "
    "purpose quality quantity quarrel quarter rage rail rate ratio reality reason recipe reflex region relief religion remedy rent research "
    "resource respect result reward rhythm rice riddle ritual river road role romance roof root rose route rubber rumor safety salad salary salt "
    "sample sand sauce scale scene scent schedule scheme science score season sense series service session shade shadow shame shape shelter shock "
    "shore shoulder silence silk site skill skin sky sleep slice slope smoke snow snowfall society soil solution sorrow soul sound soup source "
    "space spark species speech speed spice spirit splendor sport spring stage stain standard star status steam steel stomach stone storm strain "
    "strategy stream strength stress structure style subject success sugar sunlight sunrise sunset surface surprise symbol sympathy system talent "
    "target task tax tea temper theme theory throat thumb thunder tide timber title tongue tool topic touch tourism toy tradition traffic tragedy "
    "treasure tree trial tribe trick triumph trouble truth twilight unity universe value vapor variety velvet venture verse vinegar virtue vision "
    "voice volume wage wall warmth water wealth weapon weather weight welfare wheat width wine wing wisdom witness wood wool work world worship "
    "wound youth zeal"
)
OTHERS = parted(
    "about absent absurd acid across active actual ahead alert alien alive almost alone along aloud already also although always amazing ample "
    "annual anyway apart aside aware awful awkward bald bare basic because before below bitter blank blind both brief capable careless casual "
    "central certain chief civil classic clear coarse common complex constant correct cosy cozy crazy crisp crucial daily dead dear decent deep "
    "definite delicate dense despite direct distant double dozen dreadful dry dull during dynamic eastern either elegant eleven endless enormous "
    "enough entire equal essential eternal even exact excellent exotic extra extreme fair familiar famous fatal female fifty final firm flexible "
    "foolish foreign forever formal former forward fragrant frank frequent frosty future general genuine glad global gradual grateful grave gross "
    "guilty handy harsh healthy helpful holy hopeful horrible hostile however human hundred ideal identical idle illegal immense indeed innocent "
    "intense internal joint junior keen late lawful literal local loose loud major male mature medical mental mere mild military minor mobile "
    "modern moral mostly musical mutual nasty national natural naval neat negative neither neutral never nobody none northern nothing numb "
    "obvious odd official orderly organic original otherwise oval overseas parallel partial peculiar perfect physical plump political poor "
    "popular possible practical previous primary private proper public pure quite radical random rapid rather raw ready real recent regular "
    "relative remote rich rigid ripe rough royal rural sacred safe salty scarce scary secure senior serious severe shallow sheer sick similar "
    "since single slight sober social solar sole solid sore sour southern special specific splendid stale steady stern stiff still strict stupid "
    "subtle sudden suitable sunny superb superior supreme sweet tender tense terrible thick thorough thousand through tight together tomorrow "
    "toward tropical twelve typical unable unfair unhappy unique universal unknown unless upset urban urgent useful usual vacant vague valid "
    "valuable various vast verbal vertical vital vivid vocal vulgar weak weekly weird western while wicked willing within worth worthy yet"
)
