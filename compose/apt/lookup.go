package apt

import (
	"iter"
	"sync"
)

// lookup finds packages of an Index by what solving asks for. It is made once, while a file is parsed or on first use, and
// shared by all solvers: an archive has 60,000 packages and 200,000 provided names, of which a request meets some hundreds.
type lookup struct {
	once     sync.Once
	names    chains // packages by name
	provided chains // packages by the names in their Provides
	base     []int  // packages that are Essential or of Priority required

	mu       sync.Mutex
	mentions map[string]map[string]int32 // by architecture, see Index.mentions; made when they are asked for
}

// add takes up the package at a position.
func (l *lookup) add(p *Package, at int) {
	l.names.add(p.Name, at)
	if p.Essential || p.Priority == "required" {
		l.base = append(l.base, at)
	}
	eachName(p.Provides, func(name string) { l.provided.add(name, at) })
}

// chains are lists of positions by name, in their order, without a slice for each.
type chains struct {
	heads map[string]int32 // the first links
	links []link
}

type link struct {
	at, next int32
	last     int32 // of a head: the last link of its list
}

func (c *chains) add(name string, at int) {
	i := int32(len(c.links))
	c.links = append(c.links, link{int32(at), -1, i})
	head, ok := c.heads[name]
	if !ok {
		if c.heads == nil {
			c.heads = map[string]int32{}
		}
		c.heads[name] = i
		return
	}
	c.links[c.links[head].last].next = i
	c.links[head].last = i
}

func (c *chains) of(name string) iter.Seq[int] {
	return func(yield func(int) bool) {
		i, ok := c.heads[name]
		for ok && i >= 0 && yield(int(c.links[i].at)) {
			i = c.links[i].next
		}
	}
}

// look returns the lookup of an index.
func (x *Index) look() *lookup {
	l := &x.lookup
	l.once.Do(func() {
		for i, p := range x.Packages {
			l.add(p, i)
		}
	})
	return l
}

// leadingName is the name that a relation begins with. Whether the relation is one at all is said when it is parsed.
func leadingName(text string) string {
	start := 0
	for start < len(text) && text[start] <= ' ' {
		start++
	}
	end := start
	for end < len(text) && text[end] > ' ' && text[end] != ',' && text[end] != '|' && text[end] != '(' && text[end] != ':' {
		end++
	}
	return text[start:end]
}
