"""How property tests run: whatever else the machine does, a test is never too slow."""

from hypothesis import settings

settings.register_profile("seggeo", deadline=None)
settings.load_profile("seggeo")
