"""Well-known small functions of the demo data, as text: a line "# takes | gives | example call | its result", then the source.

The tests run every one of them on its example call.
"""

from __future__ import annotations

_TEXT = """
# a number n | whether n is prime | is_prime(97) | True
def is_prime(n):
    if n < 2:
        return False
    d = 2
    while d * d <= n:
        if n % d == 0:
            return False
        d += 1
    return True

# two positive integers | their greatest common divisor | gcd(84, 36) | 12
def gcd(a, b):
    while b:
        a, b = b, a % b
    return a

# two positive integers | their least common multiple | lcm(4, 10) | 20
def lcm(a, b):
    larger = max(a, b)
    result = larger
    while result % a or result % b:
        result += larger
    return result

# an integer n that is not negative | the product of all integers from 1 to n | factorial(6) | 720
def factorial(n):
    return 1 if n < 2 else n * factorial(n - 1)

# a count | that many Fibonacci numbers, beginning with 0 and 1 | fibonacci(7) | [0, 1, 1, 2, 3, 5, 8]
def fibonacci(count):
    a, b = 0, 1
    out = []
    for _ in range(count):
        out.append(a)
        a, b = b, a + b
    return out

# a start value | how many Collatz steps lead from it to 1 | collatz_steps(6) | 8
def collatz_steps(n):
    steps = 0
    while n != 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return steps

# an integer | the sum of its decimal digits | digit_sum(-4071) | 12
def digit_sum(n):
    return sum(int(digit) for digit in str(abs(n)))

# a positive integer | the single digit that repeated digit sums end in | digital_root(9875) | 2
def digital_root(n):
    while n > 9:
        n = sum(map(int, str(n)))
    return n

# an integer that is not negative | its binary digits as text, without using bin | to_binary(10) | '1010'
def to_binary(n):
    digits = ''
    while True:
        digits = str(n % 2) + digits
        n //= 2
        if n == 0:
            return digits

# a positive integer | all its divisors in rising order | divisors(28) | [1, 2, 4, 7, 14, 28]
def divisors(n):
    return [d for d in range(1, n + 1) if n % d == 0]

# a year of the Gregorian calendar | True if it has a 29th of February | is_leap_year(1900) | False
def is_leap_year(year):
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)

# an integer below 4000 | its Roman numeral | to_roman(1994) | 'MCMXCIV'
def to_roman(n):
    pairs = [(1000, 'M'), (900, 'CM'), (500, 'D'), (400, 'CD'), (100, 'C'), (90, 'XC'), (50, 'L')]
    pairs += [(40, 'XL'), (10, 'X'), (9, 'IX'), (5, 'V'), (4, 'IV'), (1, 'I')]
    out = ''
    for value, letters in pairs:
        while n >= value:
            out += letters
            n -= value
    return out

# a temperature in degrees Celsius | the same temperature in Fahrenheit | fahrenheit(20) | 68.0
def fahrenheit(celsius):
    return celsius * 9 / 5 + 32

# a value with a lower and an upper bound | the value moved into the bounds | clamp(14, 0, 9) | 9
def clamp(value, low, high):
    return max(low, min(high, value))

# a matrix as a list of rows | the matrix with rows and columns swapped | transpose([[1, 2, 3], [4, 5, 6]]) | [[1, 4], [2, 5], [3, 6]]
def transpose(rows):
    return [list(column) for column in zip(*rows)]

# a square matrix | the entries from the upper left to the lower right | diagonal([[3, 0], [7, 8]]) | [3, 8]
def diagonal(matrix):
    return [matrix[i][i] for i in range(len(matrix))]

# a list of lists | one flat list of all their elements | flatten([[1], [], [2, 3]]) | [1, 2, 3]
def flatten(lists):
    flat = []
    for part in lists:
        flat.extend(part)
    return flat

# a list and a chunk size | consecutive slices of at most that size | chunks([1, 2, 3, 4, 5], 2) | [[1, 2], [3, 4], [5]]
def chunks(seq, size):
    return [seq[i:i + size] for i in range(0, len(seq), size)]

# a list and a number of places | the list rotated to the left | rotate_left(['a', 'b', 'c', 'd'], 1) | ['b', 'c', 'd', 'a']
def rotate_left(seq, k):
    k %= len(seq) or 1
    return seq[k:] + seq[:k]

# a list of amounts | the list of partial sums so far | running_totals([5, 1, 4]) | [5, 6, 10]
def running_totals(amounts):
    total = 0
    out = []
    for amount in amounts:
        total += amount
        out.append(total)
    return out

# a text of lower-case letters and a shift | the text with each letter moved along the alphabet | caesar('xyz abc', 2) | 'zab cde'
def caesar(text, shift):
    return ''.join(chr((ord(c) - 97 + shift) % 26 + 97) if c.isalpha() else c for c in text)

# a phrase | True when it reads the same backwards, ignoring case and anything but letters | is_palindrome('Never odd or even') | True
def is_palindrome(phrase):
    letters = [c.lower() for c in phrase if c.isalpha()]
    return letters == letters[::-1]

# a word | how often a, e, i, o or u occur in it | count_vowels('Education') | 5
def count_vowels(word):
    return sum(c in 'aeiou' for c in word.lower())

# two words | whether one is made of the letters of the other | are_anagrams('Listen', 'Silent') | True
def are_anagrams(a, b):
    return sorted(a.lower()) == sorted(b.lower())

# a string | pairs of letter and run length | run_length('aabccc') | [('a', 2), ('b', 1), ('c', 3)]
def run_length(text):
    runs = []
    for c in text:
        if runs and runs[-1][0] == c:
            runs[-1] = (c, runs[-1][1] + 1)
        else:
            runs.append((c, 1))
    return runs

# a string of brackets | True if every bracket is closed in the right order | balanced('([]{})') | True
def balanced(text):
    pairs = {')': '(', ']': '[', '}': '{'}
    stack = []
    for c in text:
        if c in pairs.values():
            stack.append(c)
        elif c in pairs and (not stack or stack.pop() != pairs[c]):
            return False
    return not stack

# a sorted list and a target | the index of the target, or -1 | binary_search([2, 3, 5, 8, 13], 8) | 3
def binary_search(items, target):
    low, high = 0, len(items) - 1
    while low <= high:
        mid = (low + high) // 2
        if items[mid] == target:
            return mid
        if items[mid] < target:
            low = mid + 1
        else:
            high = mid - 1
    return -1

# a list | a sorted copy, made by swapping neighbours | bubble_sort([4, 1, 3]) | [1, 3, 4]
def bubble_sort(items):
    items = list(items)
    for end in range(len(items) - 1, 0, -1):
        for i in range(end):
            if items[i] > items[i + 1]:
                items[i], items[i + 1] = items[i + 1], items[i]
    return items

# two sorted lists | one sorted list of all elements, in linear time | merge_sorted([1, 4], [2, 3, 9]) | [1, 2, 3, 4, 9]
def merge_sorted(a, b):
    out, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        if a[i] <= b[j]:
            out.append(a[i])
            i += 1
        else:
            out.append(b[j])
            j += 1
    return out + a[i:] + b[j:]

# a list of measurements that is not empty | the middle value, or the mean of the middle two | median([7, 1, 4, 2]) | 3.0
def median(values):
    ordered = sorted(values)
    half = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[half]
    return (ordered[half - 1] + ordered[half]) / 2

# a list of votes | the most frequent vote, the smallest on a tie | mode(['b', 'a', 'b', 'c']) | 'b'
def mode(votes):
    return min(set(votes), key=lambda v: (-votes.count(v), v))

# a dictionary with distinct values | the dictionary from value to key | invert({'a': 1, 'b': 2}) | {1: 'a', 2: 'b'}
def invert(mapping):
    return {value: key for key, value in mapping.items()}

# a text | a dictionary from lower-case word to number of occurrences | word_counts('Do or do not') | {'do': 2, 'or': 1, 'not': 1}
def word_counts(text):
    counts = {}
    for word in text.lower().split():
        counts[word] = counts.get(word, 0) + 1
    return counts

# a snake_case identifier | the identifier in camelCase | camel_case('max_row_count') | 'maxRowCount'
def camel_case(identifier):
    first, *rest = identifier.split('_')
    return first + ''.join(part.title() for part in rest)

# a clock time such as '07:45' | the minutes since midnight | clock_minutes('07:45') | 465
def clock_minutes(time):
    hours, minutes = time.split(':')
    return int(hours) * 60 + int(minutes)

# three side lengths | 'equilateral', 'isosceles' or 'scalene' | triangle_kind(3, 4, 3) | 'isosceles'
def triangle_kind(a, b, c):
    return {1: 'equilateral', 2: 'isosceles', 3: 'scalene'}[len({a, b, c})]

# a list that holds all of 1..n but one | the number that is missing | missing_number([1, 2, 4, 5]) | 3
def missing_number(items):
    n = len(items) + 1
    return n * (n + 1) // 2 - sum(items)

# a list and a target | the indices of two entries that add up to the target, or None | two_sum([2, 7, 11, 15], 9) | (0, 1)
def two_sum(items, target):
    seen = {}
    for index, value in enumerate(items):
        if target - value in seen:
            return seen[target - value], index
        seen[value] = index
    return None

# a row number from 0 | that row of Pascal's triangle | pascal_row(4) | [1, 4, 6, 4, 1]
def pascal_row(n):
    row = [1]
    for k in range(n):
        row.append(row[-1] * (n - k) // (k + 1))
    return row

# two strings of equal length | in how many places they differ | hamming('karma', 'korea') | 2
def hamming(a, b):
    return sum(x != y for x, y in zip(a, b))

# a base and an exponent that is not negative | the power, by repeated squaring | power(3, 5) | 243
def power(base, exponent):
    result = 1
    while exponent:
        if exponent % 2:
            result *= base
        base *= base
        exponent //= 2
    return result

# a capital, a yearly rate in percent and a number of years | the capital after that time, rounded to cents | compound(1000, 5, 2) | 1102.5
def compound(capital, rate, years):
    for _ in range(years):
        capital *= 1 + rate / 100
    return round(capital, 2)

# two vectors as lists | their inner product | dot([1, 2, 3], [4, 5, 6]) | 32
def dot(u, v):
    return sum(a * b for a, b in zip(u, v))

# a list of strings that is not empty | the longest beginning they share | longest_common_prefix(['flower', 'flow', 'flight']) | 'fl'
def longest_common_prefix(words):
    prefix = words[0]
    for word in words[1:]:
        while not word.startswith(prefix):
            prefix = prefix[:-1]
    return prefix
"""


def known_functions() -> list[tuple[str, str, str, str, str, str]]:
    """Each as (name, takes, gives, source, example call, result)."""
    found = []
    for block in _TEXT.strip().split("\n\n"):
        header, code = block.split("\n", maxsplit=1)
        takes, gives, call, result = header.removeprefix("# ").split(" | ")
        found.append((call.split("(", maxsplit=1)[0], takes, gives, code, call, result))
    return found
