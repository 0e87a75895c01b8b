"""Word problems about money, rates, ages and time; numbers as in `counting_problems.py`."""

from __future__ import annotations

import random

from eckart.pocket.skills.problem import GOODS, PEOPLE, Problem, key_of, minus, plus, two_people


def shop(rng: random.Random) -> Problem:
    """Buying one or two kinds of goods, perhaps asking for the change."""
    name, they, _ = rng.choice(PEOPLE)
    (one, many), (_, many2) = rng.sample(GOODS, 2)
    count, price = rng.randint(2, 9), rng.randint(2, 10)
    cost = count * price
    numbers: list[int | str] = [count, price]
    text = rng.choice(
        [
            f"{name} buys {count} {many} for {price} dollars each",
            f"One {one} costs {price} dollars. {name} buys {count} {many}",
        ]
    )
    steps = [f"The {many} cost {count} * {price} = {cost} dollars."]
    if rng.random() < 0.5:
        count2, price2 = rng.randint(2, 6), rng.randint(2, 9)
        cost2 = count2 * price2
        numbers += ["and", count2, price2]
        text += f" and {count2} {many2} for {price2} dollars each"
        steps.append(f"The {many2} cost {count2} * {price2} = {cost2} dollars.")
        steps.append(f"In total: {plus(cost, cost2)}.")
        cost += cost2
    if rng.random() < 0.5:
        paid = cost + rng.randint(1, 50)
        numbers += ["paid", paid]
        text += rng.choice(
            [
                f". {they.capitalize()} pays with {paid} dollars. How much change does {they} get?",
                f". {they.capitalize()} had {paid} dollars. How many dollars are left?",
            ]
        )
        steps.append(f"Left over: {minus(paid, cost)}.")
        return Problem(key_of("change", *numbers), text, tuple(steps), paid - cost)
    text += rng.choice([f". How much does {they} pay?", ". How many dollars is that in total?"])
    return Problem(key_of("shop", *numbers), text, tuple(steps), cost)


def rate(rng: random.Random) -> Problem:
    """Something happens at a steady rate; perhaps a bonus, a loss or a goal follows."""
    name, they, their = rng.choice(PEOPLE)
    rate, time = rng.randint(2, 10), rng.randint(2, 10)
    done = rate * time
    scene, unit, verb, noun = rng.choice(
        [
            (f"{name} earns {rate} dollars an hour and works {time} hours", "dollars", "earn", 0),
            (f"{name} reads {rate} pages a day for {time} days", "pages", "read", 1),
            (f"{name} walks {rate} miles a day for {time} days", "miles", "walk", 1),
            (f"{name} bakes {rate} pies an hour for {time} hours", "pies", "bake", 0),
            (f"{name} rides {rate} miles an hour for {time} hours", "miles", "ride", 1),
            (f"{name} writes {rate} letters a week for {time} weeks", "letters", "write", 0),
            (f"{name} plants {rate} trees a day for {time} days", "trees", "plant", 0),
        ]
    )
    steps = [f"In that time: {rate} * {time} = {done} {unit}."]
    shape = rng.choice(["plain", "goal", "less" if not noun else "goal", "more"])
    if shape == "goal":
        goal = done + rng.randint(2, 60)
        text = f"{scene}. {their.capitalize()} goal is {goal} {unit}. "
        text += f"How many {unit} are still missing?"
        steps.append(f"Still missing: {minus(goal, done)}.")
        return Problem(key_of("goal", rate, time, goal), text, tuple(steps), goal - done)
    if shape == "less":
        gone = rng.randint(1, done - 1)
        text = f"{scene}. Then {they} gives away {gone} {unit}. How many {unit} are left?"
        steps.append(f"Left over: {minus(done, gone)}.")
        return Problem(key_of("rate-less", rate, time, gone), text, tuple(steps), done - gone)
    if shape == "more":
        extra = rng.randint(2, 50)
        text = f"{scene}. Before that, {they} already had {extra} {unit}. "
        text += f"How many {unit} is that in total?"
        steps.append(f"In total: {plus(done, extra)}.")
        return Problem(key_of("rate-more", rate, time, extra), text, tuple(steps), done + extra)
    text = f"{scene}. How many {unit} does {they} {verb} in all?"
    return Problem(key_of("rate", rate, time), text, tuple(steps), done)


def ages(rng: random.Random) -> Problem:
    """Ages now and some years away."""
    (name, _, _), (other, _, _) = two_people(rng)
    age, gap, years = rng.randint(4, 40), rng.randint(2, 20), rng.randint(2, 20)
    if rng.random() < 0.5:
        second, step = age + gap, f"{other} is {plus(age, gap)}."
        text = f"{name} is {age} years old. {other} is {gap} years older than {name}."
        kind = "older"
    else:
        age += gap
        second, step = age - gap, f"{other} is {minus(age, gap)}."
        text = f"{name} is {age} years old. {other} is {gap} years younger than {name}."
        kind = "younger"
    if rng.random() < 0.3:
        total = age + second
        text += " What is the sum of their ages?"
        steps = (step, f"Together: {plus(age, second)}.")
        return Problem(key_of(kind, age, gap, "sum"), text, steps, total)
    text += f" How old will {other} be in {years} years?"
    steps = (step, f"In {years} years: {plus(second, years)}.")
    return Problem(key_of(kind, age, gap, years), text, steps, second + years)


def weeks(rng: random.Random) -> Problem:
    """Saving a fixed amount until a price is reached."""
    name, they, _ = rng.choice(PEOPLE)
    one, _ = rng.choice(GOODS)
    weekly, weeks, saved = rng.randint(2, 10), rng.randint(2, 10), rng.randint(3, 50)
    missing = weekly * weeks
    price = missing + saved
    unit, units = rng.choice([("week", "weeks"), ("day", "days"), ("month", "months")])
    text = rng.choice(
        [
            f"A {one} costs {price} dollars. {name} has {saved} dollars and saves {weekly} dollars a {unit}.",
            f"{name} wants a {one} for {price} dollars. {they.capitalize()} already has {saved} "
            f"dollars and saves {weekly} more each {unit}.",
        ]
    )
    text += f" After how many {units} can {they} buy it?"
    steps = (
        f"Still missing: {minus(price, saved)}.",
        f"Time needed: {missing} / {weekly} = {weeks} {units}.",
    )
    return Problem(key_of("weeks", price, saved, weekly), text, steps, weeks)
