"""Skills of the early weeks: what the base model is trained on. A placeholder names a slot kind."""

KNOWN_TEMPLATES: dict[str, str] = {
    "order_status": """
where is my order {order}
what is the status of order {order}
has order {order} been shipped yet
track order {order}
when will order {order} arrive
i am still waiting for order {order}
any news about order {order}
is order {order} on its way
show me the progress of order {order}
my order {order} has not arrived
did you send order {order} already
how far is order {order}
""",
    "cancel_order": """
cancel order {order}
i want to cancel order {order}
stop order {order} before it ships
i no longer need order {order}
please call off order {order}
i changed my mind about order {order}
drop order {order}
order {order} was a mistake , remove it
can i still cancel number {order}
do not send order {order}
withdraw my purchase {order}
kill order {order} right now
""",
    "return_item": """
i want to return the {product} from order {order}
send back the {product} of order {order}
how do i return my {product} , order {order}
the {product} in order {order} does not suit me
i would like to give back the {product} from {order}
return label for {product} , order {order}
i do not like the {product} from order {order} , take it back
start a return for the {product} in {order}
order {order} , the {product} must go back
can i bring back the {product} bought with order {order}
please accept my {product} back , number {order}
returning one {product} from order {order}
""",
    "refund_status": """
where is my refund for order {order}
when do i get my money back for {order}
the refund of order {order} is missing
has the refund for {order} been paid
i still wait for the money of order {order}
refund status of {order}
did you refund order {order}
money for order {order} has not come back
how long does the refund for order {order} take
my bank shows no refund for {order}
check the refund of order {order}
you owe me the money for order {order}
""",
    "place_order": """
i want to buy {quantity} {colour} {product} units
order {quantity} of the {colour} {product}
put {quantity} {colour} {product} pieces in my cart
i need {quantity} times the {product} in {colour}
buy the {colour} {product} , {quantity} pieces
please send me {quantity} {product} units in {colour}
add {quantity} of the {product} in {colour} to my basket
new purchase : {quantity} {colour} {product}
i will take {quantity} of your {colour} {product}
get me {quantity} {product} pieces , colour {colour}
purchase {quantity} {product} , {colour} ones
we would like {quantity} {colour} {product} units
""",
    "stock_check": """
do you have the {product} in {colour}
is the {colour} {product} in stock
is a {colour} {product} available
any {colour} {product} left
can i get the {product} in {colour}
stock of the {colour} {product}
is the {product} sold out in {colour}
when is the {colour} {product} back in stock
check availability of the {product} , {colour}
are there {product} models in {colour} left
does the {product} come in {colour}
looking for a {colour} {product} , do you carry it
""",
    "price_check": """
how much is the {product}
what does the {product} cost
price of the {product}
tell me the price of a {product}
is the {product} on sale
what do you charge for the {product}
how expensive is the {product}
current price for the {product}
is there a discount on the {product}
what would i pay for a {product}
cheapest {product} you sell
give me the price tag of the {product}
""",
    "change_address": """
change the address of order {order} to {city}
send order {order} to {city} instead
i moved to {city} , update order {order}
ship {order} to my address in {city}
new delivery address for {order} is in {city}
redirect order {order} to {city}
order {order} must go to {city}
the address on order {order} is wrong , it is {city}
please correct the address of {order} , {city}
my order {order} should be sent to {city} now
update shipping address to {city} for {order}
use my {city} address for order {order}
""",
    "delivery_slot": """
deliver order {order} on {weekday}
can order {order} come on {weekday}
i am at home on {weekday} , bring order {order}
move the delivery of {order} to {weekday}
book {weekday} for the delivery of order {order}
only {weekday} works for order {order}
schedule order {order} for {weekday}
please bring {order} on {weekday}
i prefer {weekday} for delivery of {order}
delivery day for order {order} : {weekday}
shift order {order} to {weekday}
could the driver bring {order} on {weekday}
""",
    "store_hours": """
when does the {city} store open on {weekday}
opening hours in {city} on {weekday}
is the shop in {city} open on {weekday}
what time do you close in {city} on {weekday}
are you open on {weekday} in {city}
{city} store hours for {weekday}
can i visit the {city} shop on {weekday}
until when is {city} open on {weekday}
how late is the store in {city} open on {weekday}
store times {weekday} , {city}
i want to come to the {city} store on {weekday} , when
what are the hours of the {city} branch on {weekday}
""",
    "pay_method": """
i want to pay order {order} with {payment}
change the payment of {order} to {payment}
can i use {payment} for order {order}
pay {order} by {payment}
switch order {order} to {payment}
is {payment} accepted for order {order}
charge order {order} to my {payment}
use {payment} to pay for {order}
settle order {order} via {payment}
payment for {order} should be {payment}
my payment of order {order} failed , try {payment}
please bill {order} with {payment}
""",
    "size_exchange": """
exchange the {product} for size {size}
i need the {product} in {size}
the {product} does not fit , send {size}
swap my {product} for a {size} one
wrong size , i want the {product} in {size}
can i get {size} instead for the {product}
change the size of the {product} to {size}
the {product} should be {size}
replace the {product} with the {size} size
give me the {size} version of the {product}
my {product} is the wrong size , {size} please
{size} would fit better for the {product}
""",
    "invoice_copy": """
send me the invoice of order {order} from {month}
i need a copy of the {month} bill for {order}
my receipt for order {order} in {month} is gone
bill copy , order {order} , {month}
where can i download the {month} bill of {order}
please mail the bill for order {order} of {month}
i lost the {month} receipt of order {order}
accounting needs the receipt for {order} from {month}
print the {month} bill for order {order}
tax receipt for order {order} , month {month}
duplicate of the {month} receipt for {order}
the bill of {month} for order {order} please
""",
    "report_damage": """
the {product} from order {order} arrived damaged
my {product} in order {order} has a crack
order {order} , the {product} was smashed in the box
there is a scratch on the {product} from {order}
the {product} of order {order} came with a dent
i received a damaged {product} , order {order}
damage report for {product} , order {order}
the box of order {order} was wet and the {product} is stained
you sent me a scratched {product} in order {order}
{product} from {order} is bent
the glass of the {product} in order {order} is shattered
unpacked order {order} and the {product} was cracked
""",
    "shipping_cost": """
how much is shipping a {product} to {city}
shipping cost for a {product} to {city}
what does it cost to ship the {product} to {city}
delivery fee for a {product} to {city}
is shipping to {city} free for the {product}
postage for one {product} to {city}
what do you charge to send a {product} to {city}
courier price to {city} for a {product}
freight to {city} for the {product}
how expensive is delivery of a {product} to {city}
shipping rates to {city} , one {product}
what is the postage to {city} if i buy a {product}
""",
}
