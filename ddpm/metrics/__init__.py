"""What is logged (`table`), and how far a 95 % interval reaches."""

Z95 = 1.959963984540054  # standard errors to each side: the normal distribution's 97.5 % point
