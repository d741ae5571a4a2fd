from __future__ import annotations

import pytest

from finetune.redact import redact_texts


def redact(*texts):
    return redact_texts(texts)[0]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to Ann.Lee+shop@mail.example.org today", "email"),
        ("call +1 415 555 2671 now", "phone"),
        ("call +44 20 7946 0958.", "phone"),
        ("call +49301234567", "phone"),
        ("call (415) 555-2671", "phone"),
        ("call 415-555-2671 or", "phone"),
        ("card 4111 1111 1111 1111", "card"),
        ("card 4111-1111-1111-1111,", "card"),
        ("card 378282246310005", "card"),
        ('{"pay": "5555555555554444"}', "card"),
    ],
)
def test_personal_data_is_replaced_and_counted(text, kind):
    (changed,), counts = redact_texts([text])
    assert changed != text
    assert counts == {kind: 1}


@pytest.mark.parametrize(
    "text",
    [
        "order 4155552671",
        "order 84-120-55",
        "order 112-3456789-1234567",
        "order number 4111111111111111",
        'the {"order_id": "4111 1111 1111 1111"} field',
        "tracking 1Z999AA10123456784",
        "#415-555-2671",
        "item ABC-415-555-2671-X",
        "card 4111 1111 1111 1112",
        "serial no. 378282246310005",
        "on 2026-03-02 at 10:30 for 1,299.00",
        "version 10.0.19045.3996",
        "ip 192.168.100.200",
        "9999999999999995",
        "follow @shop or a@b",
    ],
)
def test_business_numbers_are_left_alone(text):
    assert redact_texts([text]) == ([text], {})


def test_same_original_same_stand_in_across_texts_and_forms():
    question, answer = redact("I am Bo@x.io, call 415-555-2671", '{"mail": "bo@x.io", "phone": "415-555-2671"}')
    assert question == "I am person1@example.com, call 415-555-0101"
    assert answer == '{"mail": "person1@example.com", "phone": "415-555-0101"}'


def test_two_people_stay_two():
    (text,) = redact("from a@x.io to b@x.io and back to a@x.io")
    assert text == "from person1@example.com to person2@example.com and back to person1@example.com"


def test_stand_ins_keep_their_form():
    (text,) = redact("card 4111 1111 1111 1111 or +44 20 7946 0958")
    assert text == "card 0000 0000 0000 0001 or +44 20 7555 0101"
