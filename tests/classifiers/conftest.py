"""The prepared encoder, for every test of the classifiers."""

from pathlib import Path

import pytest

from classifiers.encoder import EncoderUnavailable
from classifiers.prepare import prepare


@pytest.fixture(scope="session")
def encoder_cache(request: pytest.FixtureRequest) -> Path:
    """A prepared cache of the real encoder, kept between runs and verified on every one."""
    cache: Path = request.config.cache.mkdir("tierwise-encoder")
    try:
        prepare(cache)
    except EncoderUnavailable as error:
        pytest.skip(f"no encoder weights: {error}")
    return cache
