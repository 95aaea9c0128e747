package strict_test

import (
	"fmt"

	"bakefarm/recipe/strict"
)

func Example() {
	language := strict.Language{Noun: "menu", Plural: "menus", Max: 1 << 10, Advice: "cook less",
		Begin: "a menu that begins with dish: soup", Example: "dish=soup"}
	doc, err := strict.Parse(language, "menu.yaml", []byte("dish: 1.10\nguests: many\nwine: [red]\nwien: white\n"))
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := doc.Set("wine[1]=7"); err != nil {
		fmt.Println(err)
		return
	}
	if f, ok := doc.Root().Fields("dish: soup", "dish", "guests", "wine"); ok {
		if v, ok := f.Need("dish", "dish: soup"); ok {
			v.Text("soup")
		}
		if v, ok := f.Get("guests"); ok {
			v.Number("guests: 4", 1, 12)
		}
		if v, ok := f.Get("wine"); ok {
			if _, at, _ := v.Texts("[red]"); len(at) > 0 {
				at[0].Refuse("is out; write white")
			}
		}
	}
	fmt.Println(doc.Err())

	// Output:
	// menu.yaml:1:7: dish: is the number 1.10 where text is wanted; write it in quotes: "1.10"
	// menu.yaml:2:9: guests: is the text "many" where a whole number is wanted; write guests: 4
	// menu.yaml:3:8: wine[0]: is out; write white
	// menu.yaml:4:1: wien: unknown field; did you mean wine?
	// --set wine[1]=7: wine[1]: is the number 7 where text is wanted; write it in quotes: "7"
}
