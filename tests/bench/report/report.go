// Package report makes of a sheet what people read: a page in HTML that needs nothing beside it, the plots as
// files of their own, and a summary in Markdown.
//
// It knows the keys that package sheet's documentation names, and shows what has other ones as tables.
package report

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/sluice-net/sluice/tests/bench/sheet"
)

// plots is the directory beside the page that has them as files.
const plots = "plots"

// Write writes report.html into a directory that exists, and each plot as .svg and .png into one called plots in it, of
// which it keeps nothing that was there.
func Write(s *sheet.Sheet, dir string) error {
	r := reporter{s: s}
	sections, err := r.sections()
	if err != nil {
		return fmt.Errorf("make report: %w", err)
	}
	files := filepath.Join(dir, plots)
	if err := errors.Join(os.RemoveAll(files), os.Mkdir(files, 0o755)); err != nil {
		return fmt.Errorf("write plots: %w", err)
	}
	for _, f := range r.plots {
		if err := f.save(files); err != nil {
			return fmt.Errorf("write plot: %w", err)
		}
	}
	page, err := page(s, sections)
	if err != nil {
		return fmt.Errorf("make report: %w", err)
	}
	return os.WriteFile(filepath.Join(dir, "report.html"), page, 0o644)
}

// reporter makes the sections of a report, and keeps the plots that are in it.
type reporter struct {
	s     *sheet.Sheet
	plots []*figure
	names []string
}

// sections are the parts that were measured, or that say why not.
func (r *reporter) sections() (list []section, err error) {
	for _, part := range partsOf(r.s) {
		sec := section{Name: words(part), ID: r.name(sheet.Case(part))}
		for _, n := range r.s.Notes(part) {
			sec.Notes = append(sec.Notes, n.Text)
		}
		k := sortOut(r.s.Cases(part))
		for _, form := range []func() ([]group, error){
			func() ([]group, error) { return r.wayGroups(k.ways) },
			func() ([]group, error) { return r.classGroups(k.classes), nil },
			func() ([]group, error) { return r.curveGroups(k.curves) },
			func() ([]group, error) { return r.restGroups(k.rest) },
		} {
			groups, err := form()
			if err != nil {
				return nil, err
			}
			sec.Groups = append(sec.Groups, groups...)
		}
		list = append(list, sec)
	}
	return list, nil
}

// about is the part of notes that concern the whole run.
const about = "About"

// partsOf lists those of a sheet, in the order in which they were measured. One of which there are only notes
// comes last.
func partsOf(s *sheet.Sheet) (list []string) {
	for _, c := range s.Cases("") {
		if !slices.Contains(list, c.Part()) {
			list = append(list, c.Part())
		}
	}
	for _, n := range s.Notes("") {
		if !slices.Contains(list, n.Part) && n.Part != about {
			list = append(list, n.Part)
		}
	}
	return list
}

// keep has a plot written to files.
func (r *reporter) keep(f *figure) *figure {
	r.plots = append(r.plots, f)
	return f
}

// name makes a name for a file or a place in the page of a case, which nothing else has.
func (r *reporter) name(c sheet.Case, more ...string) string {
	var words []string
	for i, field := range strings.Split(string(c), "/") {
		if _, v, ok := strings.Cut(field, "="); ok && i > 0 {
			field = v
		}
		words = append(words, field)
	}
	base := slug(strings.Join(append(words, more...), " "))
	name := base
	for i := 2; slices.Contains(r.names, name); i++ {
		name = fmt.Sprintf("%s-%d", base, i)
	}
	r.names = append(r.names, name)
	return name
}

// slug keeps of a text what is safe in file names and in addresses.
func slug(text string) string {
	fields := strings.FieldsFunc(strings.ToLower(text), func(r rune) bool {
		return r != '_' && r != '.' && (r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r))
	})
	if s := strings.Trim(strings.Join(fields, "-"), "."); s != "" {
		return s[:min(len(s), 120)]
	}
	return "unnamed"
}
