"""The prepared encoder, for the encoder's process."""

from tests.classifiers.conftest import encoder_cache as encoder_cache
