"""folders.py PREFIX LIBDIR GIVEN: prints the folder that the package is installed in, and the libraries' folder
relative to it. GIVEN is the folder for packages; empty: where this Python looks for packages below the prefix, or where a
Python of that prefix would look."""
import os
import pathlib
import site
import sys

prefix, libdir, given = sys.argv[1:]


def site_folder():
    for folder in site.getsitepackages():
        if pathlib.Path(prefix) in pathlib.Path(folder).parents:
            return folder
    return f"{prefix}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"


package = os.path.join(prefix, given or site_folder(), "flashblock")
print(package)
print(os.path.relpath(os.path.join(prefix, libdir), package))
