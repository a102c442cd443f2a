//! Tensors, sizes, names, costs and preprocessing: what others rely on without a pass or a run.

#![allow(clippy::unwrap_used)] // a test's panic is its failure

use half::{bf16, f16};
use offshoot_graph::op::{Binary, Reduce};
use offshoot_graph::random::{Purpose, Random};
use offshoot_graph::{
    Cost, DType, Data, Dim, DimOp, Fit, Graph, Interpolation, Op, Preprocessing, Role, Shape, Tensor,
};

#[test]
fn a_tensor_gives_its_elements_in_its_own_type() {
    let tensor = |data: Data| Tensor::new([2], data).unwrap();
    let (single, double) = (vec![0.5f32, -2.0], vec![0.25f64, 1e300]);
    let words = Tensor::i64([2], vec![7, -8]);
    let mut floats = Tensor::f32([2], single.clone());
    assert_eq!((floats.as_f32(), floats.as_f64(), floats.as_i64()), (Some(&single[..]), None, None));
    assert_eq!((words.as_i64(), words.as_f32()), (Some(&[7, -8][..]), None));
    assert_eq!(tensor(Data::F64(double.clone())).as_f64(), Some(&double[..]));
    // A change is not seen in a clone.
    let before = floats.clone();
    floats.as_f32_mut().unwrap()[1] = 3.0;
    assert_eq!((before.as_f32().unwrap()[1], floats.clone().into_f32()), (-2.0, Some(vec![0.5, 3.0])));
    assert!(words.clone().as_f32_mut().is_none() && words.clone().into_f32().is_none());
    // Floats of any width become f32, and nothing else does.
    let halves = [
        Data::F16([0.5, -2.0].map(f16::from_f32).to_vec()),
        Data::BF16([0.5, -2.0].map(bf16::from_f32).to_vec()),
    ];
    for data in halves.into_iter().chain([Data::F64(vec![0.5, -2.0]), Data::F32(single.clone())]) {
        assert_eq!(tensor(data).to_f32(), Some(before.clone()));
    }
    assert_eq!(words.to_f32(), None);
}

#[test]
fn a_tensor_holds_as_many_elements_as_its_shape_says() {
    let types = [
        (Data::F32(vec![0.0; 3]), "f32", 4),
        (Data::F64(vec![0.0; 3]), "f64", 8),
        (Data::F16(vec![f16::ZERO; 3]), "f16", 2),
        (Data::BF16(vec![bf16::ZERO; 3]), "bf16", 2),
        (Data::I64(vec![0; 3]), "i64", 8),
        (Data::I32(vec![0; 3]), "i32", 4),
        (Data::I8(vec![0; 3]), "i8", 1),
        (Data::U8(vec![0; 3]), "u8", 1),
        (Data::Bool(vec![false; 3]), "bool", 1),
    ];
    for (data, name, size) in types {
        let dtype = data.dtype();
        assert_eq!(
            (dtype.to_string().as_str(), dtype.size(), dtype.is_float()),
            (name, size, name.contains('f'))
        );
        let refused = Tensor::new([2], data.clone()).unwrap_err().to_string();
        assert_eq!(refused, "a tensor of shape [2] cannot hold 3 elements");
        let tensor = Tensor::new([1, 3], data).unwrap();
        assert_eq!((tensor.len(), tensor.is_empty(), tensor.dtype()), (3, false, dtype));
        assert_eq!(tensor.reshape([3, 1]).unwrap().shape(), [3, 1]);
    }
    assert!(Tensor::new([usize::MAX, 2], Data::F32(vec![])).is_err());
    assert!(Tensor::zeros([2, 0]).is_empty() && Tensor::f32([2], vec![1.0; 2]).reshape([3]).is_err());
    assert_eq!(Tensor::full([2], 4.0), Tensor::f32([2], vec![4.0; 2]));
}

#[test]
fn the_size_that_is_left_open_follows_from_the_others() {
    let (n, m) = (Dim::symbol("n"), Dim::symbol("m"));
    let shape = Shape(vec![n.clone(), 6.into(), 4.into()]);
    let fixed = |size: usize| Some(Dim::Fixed(size));
    let reshaped = |target: &[Option<Dim>]| shape.reshaped(target).map(|shape| shape.to_string());
    assert_eq!(reshaped(&[Some(n.clone()), None]).as_deref(), Some("[n, 24]"));
    assert_eq!(reshaped(&[None, fixed(8)]).as_deref(), Some("[(3*n), 8]"));
    assert_eq!(reshaped(&[fixed(24), None, fixed(1)]).as_deref(), Some("[24, n, 1]"));
    assert_eq!(reshaped(&[fixed(8), Some(n.clone()), fixed(3)]).as_deref(), Some("[8, n, 3]"));
    // Two are open, 24 is no multiple, nothing times 0 is 24, there is no m, there are 25 of n.
    for target in [vec![None, None], vec![fixed(5), None], vec![fixed(0), None], vec![Some(m), None]] {
        assert_eq!(reshaped(&target), None, "{target:?}");
    }
    assert_eq!(reshaped(&[fixed(25), Some(n.clone())]), None);
    let size = n.combine(DimOp::Mul, &Dim::Fixed(2)).combine(DimOp::Add, &Dim::Fixed(1));
    assert_eq!(size.to_string(), "((2*n)+1)");
    assert_eq!([4, 5].map(|most| size.is_small(most)), [false, true]);
    assert_eq!([0, 1].map(|most| n.is_small(most)), [false, true]);
}

#[test]
fn members_are_found_by_each_of_their_names() {
    for &binary in Binary::ALL {
        let row = binary.row();
        assert_eq!((Binary::from_onnx(row.onnx), Binary::from_mil(row.mil)), (Some(binary), Some(binary)));
        assert!(row.aten.iter().all(|name| Binary::from_aten(name) == Some(binary)), "{binary:?}");
    }
    for &reduce in Reduce::ALL {
        let row = reduce.row();
        assert_eq!((Reduce::from_onnx(row.onnx), Reduce::from_mil(row.mil)), (Some(reduce), Some(reduce)));
        assert!(row.aten.iter().all(|name| Reduce::from_aten(name) == Some(reduce)), "{reduce:?}");
    }
    assert_eq!(
        (Binary::from_onnx("add"), Binary::from_aten("Add"), Binary::from_mil("Add")),
        (None, None, None)
    );
    assert_eq!(
        (Reduce::from_onnx("sum"), Reduce::from_aten("Sum"), Reduce::from_mil("Sum")),
        (None, None, None)
    );
}

#[test]
fn parameters_are_counted_and_may_become_constants() {
    let mut graph = Graph::new("parameters");
    let x = graph.add_input("x", DType::F32, Shape::fixed(&[2, 4]));
    let y = graph.linear("fc", x, 3).unwrap();
    graph.add_parameter("mean", &[5], Role::Buffer);
    graph.add_typed_parameter("bytes", DType::I8, &[2, 7], Role::Weight);
    let again = graph.linear("fc", y, 2).unwrap();
    let names: Vec<&str> = graph.parameters().iter().map(|&id| graph.value(id).name.as_str()).collect();
    assert_eq!(names, ["fc.weight", "fc.bias", "mean", "bytes", "fc.weight_2", "fc.bias_2"]);
    assert_eq!((graph.name(), graph.value(again).name.as_str()), ("parameters", "fc_2"));
    // Weights and biases of both layers; the bytes do not learn; a statistic is not counted.
    assert_eq!(graph.count_parameters(), (15 + 8, 14));
    let changes = |name: &str| graph.parameter_info(graph.find_parameter(name).unwrap()).unwrap().changes();
    assert_eq!(["fc.weight", "mean", "bytes"].map(changes), [true, true, false]);

    let bias = graph.find_parameter("fc.bias").unwrap();
    let refused = graph.hold(bias, Tensor::zeros([4])).unwrap_err();
    assert_eq!((refused.node.as_str(), refused.reason.as_str()), ("fc.bias", "it is no parameter of f32[4]"));
    assert!(
        graph.hold(bias, Tensor::i64([3], vec![0; 3])).is_err()
            && graph.hold(x, Tensor::zeros([2, 4])).is_err()
    );
    graph.hold(bias, Tensor::zeros([3])).unwrap();
    assert!(graph.find_parameter("fc.bias").is_none() && graph.parameter_info(bias).is_none());
    assert_eq!(graph.count_parameters(), (12 + 8, 14));
}

#[test]
fn channels_that_are_not_known_are_an_error() {
    let mut graph = Graph::new("channels");
    let row = graph.add_input("row", DType::F32, Shape::fixed(&[3]));
    let open = graph.add_input("open", DType::F32, Shape(vec![2.into(), Dim::symbol("c")]));
    for (x, shape) in [(row, "[3]"), (open, "[2, c]")] {
        let error = graph.linear("fc", x, 2).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("node `fc` (Gemm): the input's shape {shape} has no known number of channels")
        );
    }
}

#[test]
fn time_is_bounded_by_the_slower_of_operations_and_bytes() {
    let cost = Cost { operations: 100, bytes: 10 };
    assert_eq!([cost.seconds(50.0, 2.0), cost.seconds(10.0, 100.0)], [5.0, 10.0]);
}

#[test]
fn preprocessing_is_told_apart_step_by_step() {
    let plain = Preprocessing::default();
    assert_eq!(
        plain.to_string(),
        "size 224, fit crop, interpolation bilinear, resize 256, mean 0.485,0.456,0.406, std 0.229,0.224,0.225, \
         background 255,255,255, exif rotation on"
    );
    assert_eq!(plain.differences(&plain), Vec::<String>::new());
    let other = Preprocessing {
        fit: Fit::Pad,
        interpolation: Interpolation::Nearest,
        background: [0, 1, 2],
        exif_rotation: false,
        ..plain.clone()
    };
    let wanted = [
        "fit crop and pad",
        "interpolation bilinear and nearest",
        "background 255,255,255 and 0,1,2",
        "exif rotation on and off",
    ];
    assert_eq!(plain.differences(&other), wanted);
    assert_eq!(Fit::Stretch.to_string(), "stretch");
    assert_eq!(
        [Interpolation::Bicubic, Interpolation::Lanczos].map(|i| i.to_string()),
        ["bicubic", "lanczos"]
    );
    // In the proportion of 256 to 224, rounded.
    assert_eq!([448, 100, 98].map(|size| plain.resize_for(size)), [512, 114, 112]);
}

/// What NumPy computes of the first five draws of the stream (1, 2, 3, Split), whose 64 bits are those of SplitMix64's finalizer.
#[test]
fn a_stream_is_drawn_from_as_its_distributions_say() {
    let stream = || Random::new(1, 2, 3, Purpose::Split);
    let mut random = stream();
    let bits = [0xC165_5375_480C_A180u64, 0x436B_6E97_ED4C_6B2E, 0x896B_B48F_E0AB_E4E7];
    assert_eq!([0; 3].map(|_| random.next_u64()), bits);
    let mut random = stream();
    assert_eq!([0; 3].map(|_| random.uniform()), [0.755_452_33, 0.263_358, 0.536_799_67]);
    let mut random = stream();
    assert_eq!([0; 5].map(|_| random.below(10)), [7, 2, 5, 1, 2]);
    let mut random = stream();
    let normals = [0; 2].map(|_| random.normal());
    assert!(
        (normals[0] + 0.140_695_67).abs() < 1e-6 && (normals[1] - 0.631_386_6).abs() < 1e-6,
        "{normals:?}"
    );
    let mut random = stream();
    let numbers = [0; 2].map(|_| random.range(-2.0, 3.0));
    assert!((numbers[0] - 1.777_261_7).abs() < 1e-6 && (numbers[1] + 0.683_21).abs() < 1e-6, "{numbers:?}");
    let mut items = [0, 1, 2, 3, 4, 5];
    stream().shuffle(&mut items);
    assert_eq!(items, [5, 3, 0, 2, 1, 4]);
}

#[test]
fn an_operator_is_known_by_the_node_that_it_makes() {
    let mut graph = Graph::new("nodes");
    let x = graph.add_input("x", DType::F32, Shape::fixed(&[2]));
    let y = graph.add("y", Op::Binary(Binary::Add), &[x, x]).unwrap();
    let producer = graph.producer(y).unwrap();
    assert_eq!((graph.node(producer).name.as_str(), producer.index(), graph.producer(x)), ("y", 0, None));
    assert_eq!((graph.output("y"), graph.use_counts()), (None, vec![2, 0]));
}
