"""The Wilson score interval at 95 % by its definition: crates/offshoot-train/tests/golden/wilson.csv

Its ends are the two probabilities whose normal approximation puts the observed part exactly at the quantile. They are found here by
bisection, with 40 digits, so that nothing is shared with the closed form in health/interval.rs. No package is needed.
"""

from decimal import Decimal, getcontext
from pathlib import Path

OUT = Path(__file__).parents[2] / "crates/offshoot-train/tests/golden/wilson.csv"

getcontext().prec = 40
# The 0.975 quantile of the normal distribution (OEIS A220510).
Z = Decimal("1.959963984540054235524594430520551527955")


def distance(p: Decimal, part: Decimal, n: int) -> Decimal:
    """How far outside of the interval `p` is: negative within."""
    return (part - p) ** 2 - Z * Z * p * (1 - p) / n


def end(part: Decimal, n: int, outside: Decimal) -> float:
    inside = part
    for _ in range(120):
        middle = (inside + outside) / 2
        if distance(middle, part, n) > 0:
            outside = middle
        else:
            inside = middle
    return float(inside)


rows = ["right,pictures,low,high"]
for n in (1, 2, 3, 7, 42, 208, 1000, 50_000):
    for k in sorted({0, 1, n // 3, n // 2, n - 1, n}):
        part = Decimal(k) / n
        low = 0.0 if k == 0 else end(part, n, Decimal(0))
        high = 1.0 if k == n else end(part, n, Decimal(1))
        rows.append(f"{k},{n},{low!r},{high!r}")
OUT.write_text("\n".join(rows) + "\n")
