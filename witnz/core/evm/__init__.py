"""What an EVM chain's evidence is made of: hashes, encodings, tries, signatures; pure, and nothing but Python."""
