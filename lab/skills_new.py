"""Product lines that arrive later: new intents, keys and wording over known slot kinds. Never shown to the base model.

A placeholder is ``{key:kind}``: the key in the answer, and the slot kind its value is drawn from.
"""

NEW_TEMPLATES: dict[str, str] = {
    "gift_card": """
i want a gift card worth {worth:amount} for {valid:month}
create a voucher of {worth:amount} valid in {valid:month}
gift voucher {worth:amount} , to be given in {valid:month}
a present card with {worth:amount} on it for a birthday in {valid:month}
make me a gift card , {worth:amount} , {valid:month}
birthday voucher for {valid:month} , value {worth:amount}
can i give a voucher of {worth:amount} in {valid:month}
my friend celebrates in {valid:month} , gift card with {worth:amount}
load {worth:amount} on a gift card for {valid:month}
issue a gift voucher over {worth:amount} starting {valid:month}
wedding present in {valid:month} , voucher worth {worth:amount}
surprise gift card of {worth:amount} for {valid:month}
""",
    "rental": """
i want to rent a {thing:product} for {days:quantity} days
rent the {thing:product} , {days:quantity} days
can i borrow a {thing:product} for {days:quantity} days
hire a {thing:product} for {days:quantity} days
lend me a {thing:product} , {days:quantity} days in total
{thing:product} rental for {days:quantity} days
how do i rent one {thing:product} , {days:quantity} days
i only need to borrow the {thing:product} , {days:quantity} days
reserve a rental {thing:product} for {days:quantity} days
weekend hire of a {thing:product} , {days:quantity} days
borrow {thing:product} and give it back after {days:quantity} days
leasing a {thing:product} during {days:quantity} days
""",
    "repair": """
my {device:product} is broken , repair it in {workshop:city}
fix my {device:product} at the {workshop:city} workshop
the {device:product} stopped working , is there a technician in {workshop:city}
book a mechanic in {workshop:city} for my {device:product}
repair service {workshop:city} , {device:product} does not turn on
can a technician in {workshop:city} mend the {device:product}
my {device:product} makes noise , workshop {workshop:city}
need spare parts and a fix for the {device:product} in {workshop:city}
who repairs a {device:product} in {workshop:city}
bring the defective {device:product} to the {workshop:city} workshop
technician wanted : {device:product} , {workshop:city}
the motor of my {device:product} died , mend it in {workshop:city}
""",
    "subscribe": """
start a newsletter membership every {day:weekday} paid by {billing:payment}
subscribe me to the club , {day:weekday} , {billing:payment}
i want the weekly membership on {day:weekday} with {billing:payment}
sign up for the plan each {day:weekday} , billing {billing:payment}
club membership , renew every {day:weekday} through {billing:payment}
begin my subscription on {day:weekday} using {billing:payment}
premium plan from {day:weekday} , {billing:payment}
join the premium club on {day:weekday} with {billing:payment}
recurring subscription every {day:weekday} by {billing:payment}
renew my membership on {day:weekday} , {billing:payment}
subscription plan : {day:weekday} , {billing:payment}
enrol me as premium member each {day:weekday} , {billing:payment}
""",
    "trade_in": """
what will you give me for my used {item:product} in {paint:colour}
trade in my old {paint:colour} {item:product}
i want to sell you my second hand {item:product} , {paint:colour}
exchange value of a used {paint:colour} {item:product}
do you take an old {item:product} , {paint:colour} , as part payment
trade my {paint:colour} {item:product} against credit
recycle bonus for an old {paint:colour} {item:product}
how much credit for a pre owned {item:product} in {paint:colour}
evaluate my used {item:product} , it is {paint:colour}
i own an old {paint:colour} {item:product} to trade in
second hand offer : {paint:colour} {item:product}
sell back an aged {item:product} , {paint:colour}
""",
    "pickup": """
i will collect parcel {parcel:order} at the {depot:city} warehouse
pick up {parcel:order} from the locker in {depot:city}
hold parcel {parcel:order} at the {depot:city} depot
self collection of {parcel:order} in {depot:city}
leave {parcel:order} in the {depot:city} locker , i fetch it
i fetch parcel {parcel:order} myself at depot {depot:city}
warehouse pickup {parcel:order} , {depot:city}
collect {parcel:order} from the counter in {depot:city}
reserve a locker in {depot:city} for parcel {parcel:order}
can i fetch {parcel:order} myself from the {depot:city} warehouse
pick up counter {depot:city} , parcel {parcel:order}
my neighbour will collect {parcel:order} at the {depot:city} depot
""",
    "assembly": """
send a carpenter to assemble the {piece:product} on {visit:weekday}
i need help to build up my {piece:product} on {visit:weekday}
assembly of the {piece:product} , {visit:weekday}
can someone install the {piece:product} on {visit:weekday}
book an installer for the {piece:product} this {visit:weekday}
mount my {piece:product} on {visit:weekday}
put together the {piece:product} for me on {visit:weekday}
installation visit {visit:weekday} for a {piece:product}
fitter needed on {visit:weekday} , {piece:product}
the manual is hard , assemble my {piece:product} on {visit:weekday}
home installation of the {piece:product} , {visit:weekday}
two people to mount and install the {piece:product} on {visit:weekday}
""",
}
