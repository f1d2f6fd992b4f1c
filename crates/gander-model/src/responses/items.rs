//! Which item of a response an event is about.
//!
//! Events name their item by id and by number. Servers leave either out, give two items one number, or give one item
//! another id with every event. So the id counts first and the number second, among items of the same kind.

/// Items of one response that are told apart.
const MAX_ITEMS: usize = 4096;

/// What an item is, as far as an event tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Message,
    Call,
    Other,
}

impl Kind {
    /// The kind of an item's `type`.
    pub(super) fn of(kind: &str) -> Self {
        match kind {
            "message" => Self::Message,
            "function_call" => Self::Call,
            _ => Self::Other,
        }
    }
}

/// Where in an item's life an event stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Begin,
    Within,
    End,
}

/// How an event names its item.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name<'a> {
    pub(super) kind: Kind,
    pub(super) number: Option<u64>,
    pub(super) id: Option<&'a str>,
}

#[derive(Debug)]
struct Item {
    kind: Kind,
    number: Option<u64>,
    id: Option<String>,
    ended: bool,
}

/// The items so far.
#[derive(Debug, Default)]
pub(super) struct Items(Vec<Item>);

impl Items {
    /// The key of the item that an event names: stable for the whole response.
    pub(super) fn key(&mut self, name: Name<'_>, place: Place) -> u64 {
        let name = Name { id: name.id.filter(|id| !id.is_empty()), ..name };
        let at = self.find(name, place).unwrap_or_else(|| {
            if self.0.len() < MAX_ITEMS {
                let id = name.id.map(str::to_owned);
                self.0.push(Item { kind: name.kind, number: name.number, id, ended: false });
            }
            self.0.len() - 1
        });
        let item = &mut self.0[at];
        item.ended |= place == Place::End;
        item.number = item.number.or(name.number);
        if item.id.is_none() {
            item.id = name.id.map(str::to_owned);
        }
        at as u64
    }

    fn find(&self, name: Name<'_>, place: Place) -> Option<usize> {
        let last = |fits: &dyn Fn(&Item) -> bool| {
            self.0.iter().rposition(|item| item.kind == name.kind && fits(item))
        };
        let same_id = |item: &Item| name.id.is_some() && item.id.as_deref() == name.id;
        let same_number = |item: &Item| name.number.is_some() && item.number == name.number;
        let exact = last(&|item| same_id(item) && same_number(item));
        if exact.is_some() {
            return exact;
        }
        if place == Place::Begin {
            return last(&|item| same_id(item) && (item.number.is_none() || name.number.is_none()));
        }
        let open = |item: &Item| place != Place::End || !item.ended;
        last(&same_id).or_else(|| last(&|item| same_number(item) && open(item))).or_else(|| {
            let unnamed = name.id.is_none() && name.number.is_none();
            last(&|item| unnamed && !item.ended)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call<'a>(number: impl Into<Option<u64>>, id: impl Into<Option<&'a str>>) -> Name<'a> {
        Name { kind: Kind::Call, number: number.into(), id: id.into() }
    }

    #[test]
    fn ids_count_before_numbers() {
        let mut items = Items::default();
        let first = items.key(call(0, "a"), Place::Begin);
        let second = items.key(call(0, "b"), Place::Begin);
        assert_ne!(first, second, "two calls with one number");
        assert_eq!(items.key(call(0, "a"), Place::Within), first);
        assert_eq!(items.key(call(None, "b"), Place::Within), second);
        assert_eq!(items.key(call(0, "a"), Place::End), first);
        assert_eq!(items.key(call(0, "b"), Place::End), second);
        assert_eq!(items.key(call(0, "a"), Place::Begin), first, "announced again");
    }

    #[test]
    fn numbers_serve_where_ids_change() {
        let mut items = Items::default();
        let first = items.key(call(1, "x1"), Place::Begin);
        let second = items.key(call(2, "y1"), Place::Begin);
        assert_eq!(items.key(call(1, "x2"), Place::Within), first);
        assert_eq!(items.key(call(2, "y2"), Place::End), second);
        assert_eq!(items.key(call(1, "x3"), Place::End), first);
        let text = Name { kind: Kind::Message, number: Some(1), id: None };
        assert_ne!(items.key(text, Place::Within), first, "another kind with the same number");
    }

    #[test]
    fn whole_items_with_one_number_are_different_items() {
        let mut items = Items::default();
        let first = items.key(call(0, "a"), Place::End);
        assert_ne!(items.key(call(0, "b"), Place::End), first);
    }

    #[test]
    fn events_without_any_name_are_about_the_open_item() {
        let mut items = Items::default();
        let text = Name { kind: Kind::Message, number: None, id: Some("") };
        let message = items.key(text, Place::Within);
        let first = items.key(call(None, None), Place::Begin);
        assert_eq!(items.key(call(None, None), Place::Within), first);
        assert_eq!(items.key(text, Place::End), message);
        assert_eq!(items.key(call(None, None), Place::End), first);
        assert_ne!(items.key(call(None, None), Place::Begin), first);
    }
}
