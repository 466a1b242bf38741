"""Functions that hold parts of a model, on plain objects in the place of layers."""

import functools
import types
import weakref

import pytest

from state_of_sparsity.engines.functions import reached, rebound


class Part:
    def __init__(self, value):
        self.value = value

    def double(self):
        return 2 * self.value


class Helper:
    def __init__(self, part):
        self.parts = {"first": [part]}

    def apply(self):
        return self.parts["first"][0].value


class Slotted:
    __slots__ = ("part",)


part, other = Part(1), Part(5)
by_name = {id(part): Part(10)}


def copy(value):
    return by_name.get(id(value), value)


def is_part(value):
    return value is part


def of_a_global():
    return part.value + other.value


def in_a_generator_expression():
    return sum(p.value for p in (part, other))


def countdown(n):
    return part.value if n == 0 else countdown(n - 1)


def closure():
    held, unset = [part, other], None
    del unset
    return lambda: [p.value for p in held]


def recursive():
    held = part

    def inner(n):
        return held.value if n == 0 else inner(n - 1)

    return inner


def wrapped():
    held = part

    @functools.wraps(countdown)
    def inner(n):
        return inner.__wrapped__(n) + held.value

    return inner


@pytest.mark.parametrize(
    ("function", "arguments", "before", "after"),
    [
        (of_a_global, (), 6, 15),
        (in_a_generator_expression, (), 6, 15),
        (countdown, (2,), 1, 10),
        (closure(), (), [1, 5], [10, 5]),
        (recursive(), (2,), 1, 10),
        (wrapped(), (1,), 2, 20),
        (lambda held=part: held.value, (), 1, 10),
        (lambda *, held=(part,): held[0].value, (), 1, 10),
        (functools.partial(lambda p, q: p.value - q.value, part, q=other), (), -4, 5),
        (functools.partial(recursive(), n=3), (), 1, 10),
        (part.double, (), 2, 20),
        (types.MethodType(lambda self: self.value, part), (), 1, 10),
    ],
)
def test_a_function_is_bound_to_the_copies(function, arguments, before, after):
    assert rebound(function, copy)(*arguments) == after
    assert function(*arguments) == before
    assert reached(function, is_part) is part
    assert reached(rebound(function, copy), is_part) is None


def test_a_function_without_parts_is_the_same():
    def even(n):
        return n == 0 or odd(n - 1)

    def odd(n):
        return n != 0 and even(n - 1)

    partial = functools.partial(even, n=4)
    for function in (even, partial, other.double, len, lambda n=other: n.value):
        assert rebound(function, copy) is function


def test_variables_that_are_no_parts_are_still_shared():
    count, held = 0, part

    def step():
        nonlocal count
        count += held.value

    rebound(step, copy)()
    assert count == 10


def test_a_global_variable_that_is_set_later_is_found():
    space = {"part": part}
    exec("def function(): return part.value + later", space)
    bound = rebound(space["function"], copy)
    space["later"] = 7
    assert bound() == 17


def test_an_attribute_is_no_global_variable_of_its_name():
    def function(holder):
        return holder.part

    assert rebound(function, copy) is function


def test_a_weak_reference_is_to_the_copy():
    reference = weakref.ref(part)
    assert rebound(lambda: reference().value, copy)() == 10


def test_what_the_function_says_of_itself_is_kept():
    def function(x: Part = part, *, y: int = 2) -> int:
        """Says this."""
        return x.value + y

    function.mark = "kept"
    bound = rebound(function, copy)
    assert (bound.__doc__, bound.mark) == ("Says this.", "kept")
    assert bound.__qualname__ == function.__qualname__
    assert bound.__annotations__ == function.__annotations__
    assert bound.__module__ == __name__
    assert bound() == 12


def test_a_part_within_an_object_is_found_but_not_bound():
    slotted = Slotted()
    slotted.part = part
    cached = functools.lru_cache(lambda: part.value)
    for value in (Helper(part), Helper(part).apply, [slotted], {"a": cached}, {part}):
        assert reached(value, is_part) is part
    assert reached(rebound(Helper(part).apply, copy), is_part) is part
    assert reached([Helper(other), Helper, functools], is_part) is None
    assert reached(Helper(part), is_part, closed=(Helper,)) is None


def test_objects_that_refer_to_each_other_are_looked_at_once():
    one, two = Helper(other), Helper(other)
    one.next, two.next = two, one
    assert reached(one, is_part) is None
    two.part = part
    assert reached(one, is_part) is part
