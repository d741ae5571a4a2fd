# ruff: noqa: E501 - a template is one line
"""Product lines that arrive later: new intents, keys and wording over known slot kinds. Never shown to the base model.

A placeholder is ``{key:kind}``: the key in the answer, and the slot kind its value is drawn from. ``(a|b|c)`` is a
choice (an empty one drops the words), so that each skill has hundreds of wordings and no handful of sentences that a
clustering would find instead of the skill.
"""

NEW_TEMPLATES: dict[str, str] = {
    "gift_card": """
(i want|create|make me|issue|prepare|i need) a (birthday|wedding|surprise|) gift (card|voucher) (worth|of|over|with|,) {worth:amount} (for|valid in|starting|, from|,) {valid:month}
(i want|create|make me|issue|prepare|i need) a (birthday|wedding|surprise|) gift (card|voucher) (for|valid in|starting|, from|,) {valid:month} (worth|of|over|with|,) {worth:amount}
""",
    "rental": """
(i want to|can i|how do i|let me|may i|we) (rent|hire|lease) (a|one|the|your) {thing:product} (for|during|over|, only|,) {days:quantity} (days|days in total|rental days)
(i want to|can i|how do i|let me|may i|we) (rent|hire|lease) for {days:quantity} (days|days in total|rental days) (a|one|the|your) {thing:product}
""",
    "repair": """
(please|can you|who can|i need a technician to|) (repair|mend|fix) (my|the|our) (broken|defective|dead|faulty) {device:product} (in|at the workshop in|with a technician in|, workshop|, technician) {workshop:city}
(technician|workshop|mechanic) in {workshop:city} to (repair|mend|fix) (my|the|our) (broken|defective|dead|faulty) {device:product}
""",
    "subscribe": """
(start|begin|renew|open|i want|join) (my|a|the) (club|premium|weekly|gold) (membership|subscription) (every|each|on|with delivery on|,) {day:weekday} (from|starting in|as of|, from|,) {start:month}
(start|begin|renew|open|i want|join) (my|a|the) (club|premium|weekly|gold) (membership|subscription) (from|starting in|as of|, from|,) {start:month} (every|each|on|with delivery on|,) {day:weekday}
""",
    "trade_in": """
(can i|i want to|how do i|let me|may i) (trade in|trade|recycle) (my|an|this|our) (used|old|second hand|worn) {item:product} in {paint:colour} (for credit|against credit|for a bonus|)
(can i|i want to|how do i|let me|may i) (trade in|trade|recycle) (my|an|this|our) (used|old|second hand|worn) {paint:colour} {item:product} (for credit|against credit|for a bonus|)
""",
    "pickup": """
(i will|can i|let me|i want to|may i|we) (collect|fetch|pick up) (the|my|our|) parcel {parcel:order} (at|from|in|,) (the|) {depot:city} (warehouse|depot|locker|counter)
(i will|can i|let me|i want to|may i|we) (collect|fetch|pick up) (at|from|in|,) (the|) {depot:city} (warehouse|depot|locker|counter) (the|my|our|) parcel {parcel:order}
""",
    "assembly": """
(send|book|get|find|i need) (a carpenter|an installer|a fitter|someone) to (assemble|install|mount|put together) (my|the|a|our) {piece:product} (on|this|, on|,) {visit:weekday}
(send|book|get|find|i need) (on|this|, on|,) {visit:weekday} (a carpenter|an installer|a fitter|someone) to (assemble|install|mount|put together) (my|the|a|our) {piece:product}
""",
}
