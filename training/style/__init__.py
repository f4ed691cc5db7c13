"""Fast style transfer (end of section 12.3): one small network learns what Gatys' optimization does."""
