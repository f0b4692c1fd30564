# SPDX-License-Identifier: Apache-2.0
"""Keys, signatures and trust stores as files: what people hold, write and install. The check itself is the runtime's.

A *seal* has two parts. The pipeline's stage `seal` (`compress.seal`) closes an artifact: every file's digest in one
manifest. The verb `compress seal` puts a signature under it, and that is this package. `docs/signing.md` has the
ceremony.
"""
