//! How fast code is translated: decoding and IR, the same optimised, the whole way to x86-64. One
//! element is one guest instruction. What is translated is the built-in guest and a floating-point
//! loop.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dynasmrt::riscv::RiscvRelocation;
use dynasmrt::{DynasmLabelApi, VecAssembler, dynasm};
use understudy::cpu::insn::Insn;
use understudy::cpu::isa::IsaConfig;
use understudy::jit::ir::Block;
use understudy::jit::ir::BlockShape;
use understudy::jit::optimise::drop_dead_writes;
use understudy::jit::translate::translate;
use understudy::jit::x64::{self, stubs};
use understudy::machine::greeter;

/// An address for code that is not going to run.
const ADDRESS: usize = 0x10_0000;
const PAGE: usize = 4096;

/// y += a x, unrolled four times, with the integer code of a loop over rows around it.
fn float_loop() -> Vec<u8> {
    let mut ops = VecAssembler::<RiscvRelocation>::new(0);
    dynasm!(ops
        ; .arch riscv64i
        ; .feature gc
        ; row:
        ; mv a3, a0
        ; mv a4, a1
        ; mv a5, a2
        ; term:
        ; fld fa1, [a3, 0]
        ; fld fa2, [a3, 8]
        ; fld fa3, [a3, 16]
        ; fld fa4, [a3, 24]
        ; fld fa5, [a4, 0]
        ; fld ft0, [a4, 8]
        ; fld ft1, [a4, 16]
        ; fld ft2, [a4, 24]
        ; fmadd.d fa5, fa1, fa0, fa5
        ; fmadd.d ft0, fa2, fa0, ft0
        ; fmul.d fa3, fa3, fa0
        ; fadd.d ft1, ft1, fa3
        ; fmul.d fa4, fa4, fa0
        ; fsub.d ft2, ft2, fa4
        ; fsd fa5, [a4, 0]
        ; fsd ft0, [a4, 8]
        ; fsd ft1, [a4, 16]
        ; fsd ft2, [a4, 24]
        ; addi a3, a3, 32
        ; addi a4, a4, 32
        ; addi a5, a5, -4
        ; bnez a5, <term
        ; addi a6, a6, -1
        ; bnez a6, <row
        ; ret
    );
    ops.finalize().expect("the labels are defined")
}

/// The page-sized pieces of `code`, as 16-bit parcels.
fn pages(code: &[u8]) -> Vec<Vec<u16>> {
    let parcels: Vec<u16> =
        code.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
    parcels.chunks(PAGE / 2).map(<[u16]>::to_vec).collect()
}

/// Translate a page from its start to its end, block after block; instructions translated.
fn translate_page(isa: &IsaConfig, page: &[u16], mut each: impl FnMut(Block)) -> u64 {
    let (mut at, mut insns) = (0, 0);
    while at < 2 * page.len() {
        let half = |offset: u16| page.get(usize::from(offset) / 2).copied().unwrap_or(0);
        let block = translate(isa, at as u16, BlockShape::default(), half);
        // What follows the block; it may have left out what it jumped over.
        at =
            block.guest.last().map_or(at + 2, |(o, i)| usize::from(*o) + usize::from(i.len.max(2)));
        insns += u64::from(block.insns);
        each(block);
    }
    insns
}

fn translation(c: &mut Criterion) {
    let isa = IsaConfig::max();
    let (_, stubs) = stubs::assemble(ADDRESS).expect("the stubs assemble");
    let samples = [("built-in guest", greeter::image()), ("floating-point loop", float_loop())];
    for (name, code) in samples {
        let pages = pages(&code);
        let total = pages.iter().map(|page| translate_page(&isa, page, |_| ())).sum();
        let mut group = c.benchmark_group(format!("translate/{name}"));
        group.throughput(Throughput::Elements(total));
        let mut bench = |step: &str, each: &mut dyn FnMut(Block)| {
            group.bench_function(step, |b| {
                b.iter(|| {
                    for page in &pages {
                        translate_page(&isa, page, &mut *each);
                    }
                })
            });
        };
        bench("to IR", &mut |block| drop(black_box(block)));
        bench("to optimised IR", &mut |mut block| {
            drop_dead_writes(&mut block);
            black_box(block);
        });
        let mut kept: Vec<Box<Insn>> = Vec::new();
        bench("to x86-64", &mut |mut block| {
            drop_dead_writes(&mut block);
            kept.clear();
            let mut keep = |insn: &Insn| {
                kept.push(Box::new(*insn));
                kept.last().map_or(std::ptr::null(), |kept| std::ptr::from_ref(&**kept))
            };
            black_box(x64::emit(&block, ADDRESS, &stubs, 0, &mut keep).is_ok());
        });
        group.finish();
    }
}

criterion_group!(benches, translation);
criterion_main!(benches);
