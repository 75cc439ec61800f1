// Empty: without a file in assembly, the compiler takes no function without a body (nanotime).
