use super::*;

fn read(option: &str) -> Result<IsaConfig, String> {
    IsaConfig::from_cpu_option(option).map(|(_, isa)| isa).map_err(|e| e.to_string())
}

/// Sentences taken from QEMU 10.0, but for those about what we lack.
#[test]
fn errors_are_qemus() {
    for (option, sentence) in [
        ("", "-cpu option cannot be empty"),
        ("foo", "unable to find CPU model 'foo'"),
        (",", "unable to find CPU model ''"),
        ("sifive-u54", "CPU model 'sifive-u54' is not implemented, only max, rv64, veyron-v1"),
        ("rv64,zba", "Expected key=value format, found zba."),
        (
            "rv64,foo=on",
            "can't apply global rv64-riscv-cpu.foo=on: Property 'rv64-riscv-cpu.foo' not found",
        ),
        (
            "rv64,zba=maybe",
            "can't apply global rv64-riscv-cpu.zba=maybe: Parameter 'zba' expects 'on' or 'off'",
        ),
        (
            "rv64,sv39=x",
            "can't apply global rv64-riscv-cpu.sv39=x: Parameter 'sv39' expects 'on' or 'off'",
        ),
        (
            "rv64,cbom_blocksize=70000",
            "can't apply global rv64-riscv-cpu.cbom_blocksize=70000: \
             Parameter 'cbom_blocksize' expects uint16_t",
        ),
        (
            "rv64,pmu-num=40",
            "can't apply global rv64-riscv-cpu.pmu-num=40: \
             Number of counters exceeds maximum available",
        ),
        ("rv64,pmu-mask=7", "\"pmu-mask\" contains invalid bits (0-2) set"),
        ("rv64,sv64=on", "satp_mode sv64 is higher than hw max capability sv57"),
        ("rv64,sv39=off,sv48=on", "cannot disable sv39 satp mode if sv48 is enabled"),
        ("rv64,sv48=off,sv57=on", "cannot disable sv48 satp mode if sv57 is enabled"),
        ("rv64,i=off", "Either I or E extension must be set"),
        ("rv64,u=off", "Setting S extension without U extension is illegal"),
        ("rv64,f=off", "Zfa extension requires F extension"),
        ("rv64,f=off,zfa=off", "D extension requires F extension"),
        ("rv64,f=off,zfa=off,d=off,zfh=on", "Zfh/Zfhmin extensions require F extension"),
        ("rv64,a=off", "Zawrs extension requires A extension"),
        ("rv64,zacas=on,a=off", "Zacas extension requires A extension"),
        ("rv64,d=off,zcd=on", "Zcd extension requires D extension"),
        ("rv64,zicsr=off", "F extension requires Zicsr"),
        ("rv64,zicsr=off,f=off,d=off,zfa=off,zicntr=on", "zicntr requires zicsr"),
        ("rv64,smepmp=on,pmp=off", "Invalid configuration: Smepmp requires PMP support"),
        ("rv64,v=on", "can't apply global rv64-riscv-cpu.v=on: extension 'v' is not implemented"),
        (
            "rv64,priv_spec=foo",
            "can't apply global rv64-riscv-cpu.priv_spec=foo: \
             Unsupported privilege spec version 'foo'",
        ),
    ] {
        assert_eq!(read(option), Err(sentence.to_string()), "-cpu {option}");
    }
}

#[test]
fn properties_take_effect() {
    let isa = read("rv64,zbb=off,sv48=on,pmp=off,h=off,v=false,cboz_blocksize=0x80,").unwrap();
    assert!(!isa.zbb && isa.zba && isa.pmp_entries == 0);
    assert_eq!((isa.satp_mode, isa.cbo_size), (SatpMode::Sv48, 128));
    assert!(!isa.isa_extensions().contains(&"zic64b"));

    for (option, letters) in [
        ("rv64,b=yes,zba=no", "imafdcb"),
        ("rv64,m=off", "iafdc"),
        ("rv64,g=off", "imafdc"),
        ("rv64,c=off", "imafd"),
        ("rv64,a=off,zawrs=off", "imfdc"),
        ("max", "imafdcb"),
    ] {
        let isa = read(option).unwrap();
        let have: String = isa.isa_extensions().iter().filter(|n| n.len() == 1).copied().collect();
        assert_eq!(have, letters, "{option}");
        assert_eq!(isa.zmmul, isa.m, "{option}");
        assert_eq!(isa.zcd, isa.c && isa.d, "{option}");
    }
    assert!(!read("rv64,b=on,zba=off").unwrap().zba);
    let zkn = read("rv64,zkn=on,zbkb=off").unwrap();
    assert!(zkn.zkne && zkn.zbkx && !zkn.zbkb && !zkn.zkr);
    for (option, mode) in [
        ("rv64", SatpMode::Sv57),
        ("rv64,sv57=off", SatpMode::Sv48),
        ("rv64,sv48=off", SatpMode::Sv39),
        ("rv64,sv39=off", SatpMode::Bare),
        ("rv64,sv39=on,sv57=off", SatpMode::Sv39),
    ] {
        assert_eq!(read(option).unwrap().satp_mode, mode, "{option}");
    }
}
