use super::*;

#[test]
fn one_name_a_line_in_order() {
    let order = "virtio.ko\n  virtio_ring.ko \n\n9p.ko";
    assert_eq!(names(order).collect::<Vec<_>>(), ["virtio.ko", "virtio_ring.ko", "9p.ko"]);
    assert_eq!(names("\n").count(), 0);
}
