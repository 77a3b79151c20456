"""What the frozen prefix computes, stored or per batch."""
