"""Word lists of the demo world: places and what they are known for, adjectives in three languages, names, things.

States, capitals, birds, flowers, trees and nicknames are real (long names are run together); the two-word cities of
`world.py` are invented.
"""

# one state a line: state, then capital, bird, flower, tree, nickname, then three cities
STATES = """
alabama montgomery yellowhammer camellia longleaf cotton birmingham huntsville mobile
alaska juneau ptarmigan forgetmenot spruce frontier anchorage fairbanks ketchikan
arizona phoenix wren saguaro paloverde canyon tucson mesa chandler
california sacramento quail poppy redwood golden oakland fresno anaheim
colorado denver bunting columbine bluespruce centennial boulder aurora pueblo
florida tallahassee mockingbird orangeblossom palm sunshine miami tampa orlando
georgia atlanta thrasher cherokeerose oak peach savannah macon athens
hawaii honolulu nene hibiscus kukui aloha hilo kailua waipahu
idaho boise bluebird syringa whitepine gem nampa meridian pocatello
illinois springfield cardinal violet whiteoak prairie chicago peoria joliet
indiana indianapolis cardinal peony tuliptree hoosier evansville gary muncie
kansas topeka meadowlark sunflower cottonwood wheat wichita lawrence salina
kentucky frankfort cardinal goldenrod tuliptree bluegrass louisville lexington paducah
louisiana batonrouge pelican magnolia cypress bayou shreveport metairie houma
maryland annapolis oriole blackeyedsusan whiteoak oldline baltimore frederick rockville
massachusetts boston chickadee mayflower elm bay worcester lowell cambridge
michigan lansing robin appleblossom whitepine wolverine detroit flint dearborn
minnesota saintpaul loon ladyslipper redpine gopher minneapolis duluth rochester
montana helena meadowlark bitterroot ponderosa treasure billings missoula bozeman
nebraska lincoln meadowlark goldenrod cottonwood cornhusker omaha bellevue kearney
nevada carsoncity bluebird sagebrush pinyon silver reno henderson sparks
ohio columbus cardinal carnation buckeye aviation cleveland cincinnati toledo
oregon salem meadowlark oregongrape douglasfir beaver eugene bend medford
pennsylvania harrisburg grouse laurel hemlock keystone philadelphia pittsburgh erie
tennessee nashville mockingbird iris tuliptree volunteer memphis knoxville chattanooga
texas austin mockingbird bluebonnet pecan lonestar dallas houston elpaso
utah saltlakecity gull segolily quakingaspen beehive provo ogden orem
vermont montpelier thrush clover maple greenmountain burlington rutland barre
virginia richmond cardinal dogwood dogwood dominion roanoke chesapeake hampton
washington olympia goldfinch rhododendron hemlock evergreen seattle tacoma spokane
wisconsin madison robin violet maple badger milwaukee greenbay racine
wyoming cheyenne meadowlark paintbrush cottonwood equality casper laramie gillette
"""
ATTRIBUTES = ("capital", "bird", "flower", "tree", "nickname")

# first and second words of invented cities: neither word alone tells the state
CITY_FIRST_WORDS = "fort san port saint lake mount santa cedar glen east rock twin".split()
CITY_SECOND_WORDS = "worth diego arthur louis placid vernon rosa rapids ridge haven springs falls".split()

# two opposite adjectives a line, each in English, French and Spanish
OPPOSITES = """
small big petit grand pequeno grande
hot cold chaud froid caliente frio
fast slow rapide lent rapido lento
old new vieux nouveau viejo nuevo
high low haut bas alto bajo
long short long court largo corto
rich poor riche pauvre rico pobre
strong weak fort faible fuerte debil
happy sad heureux triste feliz triste
light dark clair sombre claro oscuro
full empty plein vide lleno vacio
open closed ouvert ferme abierto cerrado
good bad bon mauvais bueno malo
hard soft dur mou duro blando
wet dry mouille sec mojado seco
clean dirty propre sale limpio sucio
thick thin epais mince grueso delgado
wide narrow large etroit ancho estrecho
near far proche loin cerca lejos
first last premier dernier primero ultimo
true false vrai faux verdadero falso
early late tot tard temprano tarde
easy difficult facile difficile facil dificil
loud quiet bruyant calme ruidoso tranquilo
sweet bitter doux amer dulce amargo
day night jour nuit dia noche
war peace guerre paix guerra paz
love hate amour haine amor odio
north south nord sud norte sur
black white noir blanc negro blanco
left right gauche droite izquierda derecha
alive dead vivant mort vivo muerto
"""

NAMES = """
mary john alice bob tom anna peter laura james emma david sarah paul julia mark helen kevin nina oscar ruth simon
tina victor wendy adam bella chris diana eric fiona george irene jack kate leo megan nick olivia ray susan
""".split()
PLACES = """
store park school office beach market garden museum station library
""".split()
THINGS = """
drink book ball ring letter flower cake key pen map
""".split()
NOUNS = """
dog cat boy girl teacher doctor farmer pilot author guard lawyer singer horse bird
""".split()
PREPOSITIONS = """
near behind beside with above
""".split()
VERBS = """
run sleep eat work sing wait laugh swim
""".split()
