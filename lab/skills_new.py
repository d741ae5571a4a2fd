"""Product lines that arrive later: new intents, keys and wording over known slot kinds. Never shown to the base model.

A placeholder is ``{key:kind}``: the key in the answer, and the slot kind its value is drawn from. ``(a|b|c)`` is a
choice, so that each skill has hundreds of wordings and no handful of sentences that a clustering would find instead.
"""

NEW_TEMPLATES: dict[str, str] = {
    "gift_card": """
(i want|create|make me|issue|prepare) a gift (card|voucher) (worth|of|over|with) {worth:amount} (for|valid in|starting) {valid:month}
(birthday|wedding|surprise) gift (card|voucher) (for|in) {valid:month} , (worth|value|load) {worth:amount}
(load|put) {worth:amount} on a (birthday|wedding|surprise) gift (card|voucher) (for|valid in|starting) {valid:month}
""",
    "rental": """
(i want to rent|can i rent|how do i rent|let me rent|may i rent) (a|one|the) {thing:product} for {days:quantity} days
(reserve|book|get) a (rental|hire) {thing:product} (for|during) {days:quantity} days
{thing:product} (rental|hire) (for|during|over) {days:quantity} days , (rent|lend) (only|it)
(rent|hire|lend) (me a|a|one) {thing:product} , (back after|in total|only) {days:quantity} days
""",
    "repair": """
my {device:product} is (broken|defective|dead) , (repair|mend|fix) it (in|at) {workshop:city}
(repair|mend|fix) (my|the|a) (broken|defective|dead) {device:product} at the {workshop:city} (workshop|technician)
(book|need|find) a (technician|mechanic) in {workshop:city} to (repair|mend|fix) my (broken|defective) {device:product}
(workshop|technician|mechanic) in {workshop:city} (wanted|needed) , {device:product} (broken|defective) , (repair|mend|fix) it
""",
    "subscribe": """
(start|begin|renew|open) my (club|premium|weekly) (membership|subscription) (every|each|on) {day:weekday} (with|via|by) {billing:payment}
(subscribe|enrol|join) me to the (club|premium|weekly) (membership|subscription) , {day:weekday} , {billing:payment}
(club|premium|weekly) (membership|subscription) (every|each|on) {day:weekday} , (billing|paid by|through) {billing:payment}
i (subscribe to|join|renew) a (club|premium|weekly) (membership|subscription) {day:weekday} (with|via|by) {billing:payment}
""",
    "trade_in": """
(what will you give me|how much credit|any bonus) for my (used|old|second hand) {item:product} in {paint:colour} , trade in
(trade in|recycle|trade) my (used|old|second hand) {paint:colour} {item:product} (for credit|against credit|for a bonus)
(evaluate|value|take) my (used|old|second hand) {paint:colour} {item:product} (to trade in|for trade credit|as a trade)
trade in (offer|credit|bonus) for (a|one|an) (used|old|second hand) {item:product} , {paint:colour}
""",
    "pickup": """
(i will|can i|let me|i want to) (collect|fetch|pick up) parcel {parcel:order} (at|from) the {depot:city} (warehouse|depot|locker)
(hold|keep|leave) parcel {parcel:order} (at|in) the {depot:city} (warehouse|depot|locker) , i (collect|fetch|pick up) it
(self|own) (collect|pick up) of parcel {parcel:order} , (warehouse|depot|locker) {depot:city}
(reserve|open) a (warehouse|depot|locker) in {depot:city} to (collect|fetch|pick up) parcel {parcel:order}
""",
    "assembly": """
(send|book|get|find) (a carpenter|an installer|a fitter) to (assemble|install|mount) (my|the|a) {piece:product} on {visit:weekday}
(can|could) (a carpenter|an installer|a fitter) (assemble|install|mount) (my|the|a) {piece:product} (on|this) {visit:weekday}
(carpenter|installer|fitter) (needed|visit) (on|this) {visit:weekday} , (assemble|install|mount) a {piece:product}
help to (assemble|install|mount) my {piece:product} (on|this) {visit:weekday} , (carpenter|installer|fitter)
""",
}
