"""One run: trained while its folder, W&B and the terminal watch."""
