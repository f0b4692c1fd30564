# SPDX-License-Identifier: Apache-2.0
"""The reference policy's own life: tokenizer, demonstrations, training and evaluation."""
