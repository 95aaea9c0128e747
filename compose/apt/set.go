package apt

// set is a set of packages with what they stand for and what they refuse. It grows and shrinks like a stack.
type set struct {
	trail   []offer            // in the order of adding
	names   map[string]offer   // by name
	stands  map[string][]offer // by provided name
	enemies map[string][]enemy // Conflicts and Breaks, by the name they are about
}

func newSet() set {
	return set{names: map[string]offer{}, stands: map[string][]offer{}, enemies: map[string][]enemy{}}
}

func (s *set) has(o offer) bool {
	_, ok := s.names[o.Name]
	return ok
}

func (s *set) add(o offer, f *facts) {
	s.trail = append(s.trail, o)
	s.names[o.Name] = o
	for _, r := range f.provides {
		s.stands[r.name] = append(s.stands[r.name], o)
	}
	for _, e := range f.conflicts {
		s.enemies[e.rel.name] = append(s.enemies[e.rel.name], e)
	}
}

// undo shrinks the set to the n packages that were added first.
func (s *set) undo(n int, known map[*Package]*facts) {
	for len(s.trail) > n {
		o := s.trail[len(s.trail)-1]
		s.trail = s.trail[:len(s.trail)-1]
		delete(s.names, o.Name)
		f := known[o.Package]
		for _, r := range f.provides {
			s.stands[r.name] = s.stands[r.name][:len(s.stands[r.name])-1]
		}
		for _, e := range f.conflicts {
			s.enemies[e.rel.name] = s.enemies[e.rel.name][:len(s.enemies[e.rel.name])-1]
		}
	}
}
