"""Generation, from a prompt to text: sampling, beam search, the CPU decoder, chat."""
