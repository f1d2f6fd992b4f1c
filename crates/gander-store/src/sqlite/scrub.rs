//! Zeroes the unused space of table pages in the database file.
//!
//! `secure_delete` zeroes a row where it is deleted, but when SQLite moves rows between pages (after deletions, when rows
//! grow) it leaves copies behind in the gap between a page's row directory and its rows. Nothing refers to those bytes;
//! they would survive the row. This module finds gaps that are not zero and zeroes them.
//!
//! It may write only while the writer is locked and the WAL is empty, only bytes inside such gaps, and only through a
//! handle that stays open as long as any connection: closing one gives up SQLite's locks on the file.

use std::{fs::File, io};

/// SQLite's default, fixed when the database is created; other sizes are read from the header.
const MAX_PAGE: usize = 65_536;
/// First byte of a page that holds rows of a table. Other kinds begin with other values: indexes and inner pages have
/// their own, overflow and free pages begin with a page number far below 2^24 pages, so with 0.
const TABLE_LEAF: u8 = 0x0d;

/// Pages whose gap is not zero, by number from 0.
pub(super) fn find(file: &File) -> io::Result<Vec<u64>> {
    let Some(page_size) = page_size(file)? else { return Ok(Vec::new()) };
    let per_read = (1 << 20) / page_size;
    let mut buffer = vec![0; per_read * page_size];
    let (mut found, mut first) = (Vec::new(), 0_u64);
    loop {
        let read = read_up_to(file, &mut buffer, first * page_size as u64)?;
        let pages = read / page_size;
        for (index, page) in buffer[..pages * page_size].chunks_exact(page_size).enumerate() {
            let number = first + index as u64;
            if gap(page, number).is_some_and(|(from, to)| page[from..to].iter().any(|b| *b != 0)) {
                found.push(number);
            }
        }
        if pages < per_read {
            return Ok(found);
        }
        first += pages as u64;
    }
}

/// Zeroes the gaps of these pages and waits until the disk has them.
pub(super) fn clean(file: &File, pages: &[u64]) -> io::Result<()> {
    let Some(page_size) = page_size(file)? else { return Ok(()) };
    let mut page = vec![0; page_size];
    for number in pages {
        let at = number * page_size as u64;
        if read_up_to(file, &mut page, at)? < page_size {
            continue;
        }
        if let Some((from, to)) = gap(&page, *number) {
            page[from..to].fill(0);
            write_at(file, &page[from..to], at + from as u64)?;
        }
    }
    file.sync_data()
}

fn page_size(file: &File) -> io::Result<Option<usize>> {
    let mut header = [0; 100];
    if read_up_to(file, &mut header, 0)? < header.len() || !header.starts_with(b"SQLite format 3\0") {
        return Ok(None);
    }
    let size = match u16::from_be_bytes([header[16], header[17]]) {
        1 => MAX_PAGE,
        n => usize::from(n),
    };
    Ok((size >= 512 && size.is_power_of_two()).then_some(size))
}

/// Bytes between row directory and rows of a table leaf page.
fn gap(page: &[u8], number: u64) -> Option<(usize, usize)> {
    let header = if number == 0 { 100 } else { 0 };
    let short = |at: usize| Some(usize::from(u16::from_be_bytes([*page.get(at)?, *page.get(at + 1)?])));
    if *page.get(header)? != TABLE_LEAF {
        return None;
    }
    let from = header + 8 + 2 * short(header + 3)?;
    let to = match short(header + 5)? {
        0 => MAX_PAGE,
        n => n,
    };
    (from < to && to <= page.len()).then_some((from, to))
}

fn read_up_to(file: &File, mut buffer: &mut [u8], mut at: u64) -> io::Result<usize> {
    let mut total = 0;
    while !buffer.is_empty() {
        let read = read_at(file, buffer, at)?;
        if read == 0 {
            break;
        }
        total += read;
        at += read as u64;
        buffer = &mut buffer[read..];
    }
    Ok(total)
}

fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, at)
}

fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}
