package cache

// Flush writes what is fresh, as a second's waiting does.
func (c *Cache) Flush() { c.writeLate() }
