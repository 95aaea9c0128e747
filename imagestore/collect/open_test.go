package collect_test

import (
	"bakefarm/imagestore/catalog"
	"bakefarm/imagestore/storetest"
)

func openCatalog(ledger *storetest.Ledger) (*catalog.Catalog, error) {
	return catalog.Open("", ledger, nil, nil)
}
