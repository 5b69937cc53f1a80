"""Code that several components run in their services' environments, where Matcha is not installed.

Put `FOLDER` on a service's PYTHONPATH (`Service.code`); its modules import nothing of Matcha.
"""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
