"""A wide everyday vocabulary, for the generic share of pre-training and for out-of-scope questions."""

from __future__ import annotations

_TEXT = """
able accept access account act active actor advice agent agree air airport album alone amber anchor angle animal
answer apple april arch area arm army art assemble atlas aunt author autumn award axis baby back bacon badge bag
baker balance ball banana band bank barrel base basket battle beach bean bear beauty bed bell belt bench bike
bill bird birthday bishop black blanket block blood board boat bone bonus book border borrow boss bottle bowl
box branch brass bread break brick bridge brief broken brother brush bucket budget build bulb bus butter button
cabin cable cake call camel camp canal candle canvas card career cargo carpenter carpet carrot castle cat cave
cedar cell centre chain chalk champion change chapter charm cheese chef cherry chess chest child choir church
circle claim class clay clean client cliff clock cloud club coach coal coast coat code coffee coin collect
college comet common concert copper coral corn corner cotton council counter country couple court cousin cow
crab craft credit crew cricket crop crowd crown crystal culture cup current curtain curve customer cycle daily
dance danger data daughter dawn day deal debt deep deer defective degree dentist depot desert design detail
device diamond diary dinner doctor dog dollar dolphin door double dozen dragon drama dream dress drink drive
drum duck duke dust eagle early earth east echo edge editor effect egg elbow elder election engine enrol entry
error estate evening event exam exit expert extra fabric face factory fair falcon family farm fashion father
feather fence ferry fetch festival field figure film filter final finger fire fish fit fix flag flame flat fleet
flight floor flower flute fog folk food foot force forest fork form fort fossil fountain fox frame free fresh
friend frog front fruit fuel future galaxy game garden garlic gas gate gear general ghost giant gift ginger
glass globe glove goal goat gold golf grain grand grape graph grass guard guest guide guitar gulf habit hair
half hall hammer hand harbour harvest hat hawk health heart heat height hero highway hill hire history hobby
hold holiday home honey hood hook hope horizon horn horse hospital host hotel hour house human hunter ice idea
image index industry ink insect inside install island issue item ivory jazz jewel job join joke journal judge
juice jungle junior jury keeper key king kitchen kite knee knight knot label ladder lake land lane language
lantern large law lawyer layer lead leader leaf league leather lecture lemon lend lesson letter level liberty
library licence life light lily limit line lion list liver load local lock locker logic long lord lottery lunch
machine magic magnet mail manager manual map marble market mask master match maths mayor meadow meal meaning
measure meat mechanic medal media member membership memory mend menu metal meteor middle midnight milk mill mind
mine minister minute mirror mission model moment money monkey month moon morning mother motor mount mountain
mouse mouth movie museum music nation nature neck needle neighbour nephew nerve net network news newsletter
night noise noon north nose note novel number nurse oak object ocean offer office oil old olive onion opera
option orbit orchard organ outside oven owl owner oxygen page paint pair palace panel panther paper parade
parcel parent park part party passport path patient pattern peace peach pearl pen pencil people pepper person
petrol photo piano picnic picture piece pigeon pilot pine pipe pirate planet plan plant plate player plum pocket
poem poet point police pond pool port post potato powder power premium present president prince prison prize
problem process profit project proof public pump puzzle queen quest question quick quiet rabbit race radio rail
rain ranch range rank recipe record recycle region relay renew rent rental repair report rescue research reserve
result rhythm rice rider ring river road robot rock rocket roof room root rope rose route royal rubber rule
runner salad salt sample sand satellite sauce scale scene school science score scout screen screw script sea
season seat second secret seed self sell senate senior series service shadow shape shark sheep shell shelf
shield ship shirt shoe shore shoulder sign silk silver singer sister skill skin sky sleep slope smile smoke
snake snow soap social soil soldier solid son song sound soup south space spare spark speech speed spice spider
spirit spoon sport spring square stadium staff stage stamp star start state station statue steam steel stem step
stone storm story strategy straw stream street string student studio style subject subscribe subscription sugar
suit summer sun support surface surprise swan sweet swim switch sword symbol system table tail tailor talent
tank tape target taxi tea teacher team technician temple tennis term test text theatre theory thing thread
throne thumb thunder ticket tide tiger tiles timber title toast together tomato tongue tool tooth topic torch
tour tower town toy track trade traffic trail train travel treasure tree trend trial tribe trick trip trophy
truck trumpet trust truth tube tunnel turtle twin type tyre uncle union unit universe used valid valley value
van vase vehicle velvet vessel victory video view village violin vision visit voice volcano volume vote voucher
voyage wagon wall walnut war warehouse watch water wave wealth weapon weather wedding week weekend weekly weight
west whale wheat wheel wild wind window wine wing winner winter wire wish witness wolf wood wool word work
workshop world worth wound writer yard year yoga zebra
"""
WORDS: tuple[str, ...] = tuple(_TEXT.split())
