package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/sluice-net/sluice/registry/api"
)

const maxInput = 8 << 20 // bytes; as much as the agent takes

// input is some files joined to one, which still knows whose line is whose.
type input struct {
	text  []byte
	files []inputFile
}

type inputFile struct {
	name  string
	first int // line of the joined text that is the file's first
}

// read joins files; "-" is standard input.
func (c *cli) read(names []string) (*input, error) {
	var in input
	for _, name := range names {
		b, err := c.readFile(name)
		if err != nil {
			return nil, err
		}
		if len(in.files) > 0 {
			if len(in.text) > 0 && in.text[len(in.text)-1] != '\n' {
				in.text = append(in.text, '\n')
			}
			in.text = append(in.text, "---\n"...)
		}
		if name == "-" {
			name = "stdin"
		}
		in.files = append(in.files, inputFile{name: name, first: bytes.Count(in.text, []byte("\n")) + 1})
		in.text = append(in.text, b...)
		if len(in.text) > maxInput {
			return nil, fmt.Errorf("read %s: the input has more than the %d bytes allowed", name, maxInput)
		}
	}
	return &in, nil
}

func (c *cli) readFile(name string) ([]byte, error) {
	r := c.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, errors.Unwrap(err))
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}

// locate gives the details of an error the names of files and their own lines.
func (in *input) locate(err error) error {
	var e *api.Error
	if !errors.As(err, &e) {
		return err
	}
	text := e.Message
	for _, d := range e.Details {
		text += "\n"
		if d.Line > 0 {
			f := in.files[0]
			for _, o := range in.files {
				if o.first <= d.Line {
					f = o
				}
			}
			d.Line -= f.first - 1
			text += f.name + ":"
		}
		text += d.String()
	}
	return errors.New(text)
}
