"""bertlens: fine-tune BERT on reviews and see which words each verdict rests on."""
