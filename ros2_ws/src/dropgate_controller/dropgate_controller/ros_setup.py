# SPDX-License-Identifier: Apache-2.0
"""What has to be in the environment before `rclpy.init`: a Fast DDS profile under which camera images arrive.

The sender's shared memory decides, so camera drivers need the profile too:
`eval "$(python3 -m dropgate_controller.ros_setup)"` in the shell that starts them.
"""

from __future__ import annotations

import os
from pathlib import Path

PROFILE = Path(__file__).resolve().parent / "shared_memory_profile.xml"
# Humble and Jazzy read the first name, Kilted the second (and warns that it knows the first)
VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def use_shared_memory() -> None:
    """Point Fast DDS to our profile, unless the user has chosen one. Without effect after `rclpy.init`."""
    if not any(os.environ.get(name) for name in VARIABLES):
        os.environ.update(dict.fromkeys(VARIABLES, str(PROFILE)))


def main() -> None:
    """Print the same as shell commands."""
    print("\n".join(f"export {name}='{PROFILE}'" for name in VARIABLES))


if __name__ == "__main__":
    main()
