//! Real programs from the host's `/usr` work.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use nofear_tests::script;

#[test]
fn python_git_and_a_compiler_work_with_four_vcpus() {
    let Some(ran) = script(
        &["--cpus", "4", "--mem", "1G"],
        r#"set -e
        cd ~
        python3 -c 'import json, threading; print(json.dumps({"python": 6 * 7}))'
        git init -q repo && cd repo
        git config user.email a@b && git config user.name a
        for i in 1 2 3 4; do echo "int f$i(void) { return $i; }" > f$i.c; done
        # Not by echo, whose backslashes differ from shell to shell.
        printf '%s\n' 'int f1(void), f2(void), f3(void), f4(void);' 'int printf(const char *, ...);' \
            'int main(void) { printf("sum %d\n", f1() + f2() + f3() + f4()); return 0; }' > main.c
        printf 'sum: main.o f1.o f2.o f3.o f4.o\n\tcc -o $@ $^\n' > Makefile
        make -s -j4
        ./sum
        git add -A
        git commit -qm first
        git log --oneline | wc -l
        nproc"#,
    ) else {
        return;
    };
    let ran = ran.ok();
    assert_eq!(ran.text(), "{\"python\": 42}\nsum 10\n1\n4\n", "{}", ran.stderr);
}
