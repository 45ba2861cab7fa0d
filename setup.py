"""What pyproject.toml cannot say: the file by which IPython, and so the CASA shell, loads the task."""

from setuptools import setup

setup(data_files=[("etc/ipython/startup", ["casa_deepfocus/50-casa-deepfocus.py"])])
