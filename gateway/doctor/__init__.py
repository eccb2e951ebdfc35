"""Looks at all that usually goes wrong and says how to mend it. Changes nothing but by trying what it looks
at. It must not know who asks: the command line, the API or a page.
"""

from gateway.doctor.examination import CHECKS, Doctor

__all__ = ["CHECKS", "Doctor"]
