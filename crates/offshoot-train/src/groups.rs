//! Which parameter learns at which rate, and with which weight decay.

use offshoot_graph::passes::Pattern;
use offshoot_graph::{Graph, Role};

use crate::freeze::head_names;
use crate::optimizer::Group;
use crate::unfreeze::Unfreeze;

/// How rates are given out.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupOptions {
    /// The learning rate of what nothing else is said of.
    pub lr: f64,
    /// The weight decay.
    pub weight_decay: f64,
    /// Whether biases and the weights of norms decay too: all parameters of one dimension.
    pub decay_norms_and_biases: bool,
    /// Learning rates by pattern; the most specific pattern wins.
    pub lr_groups: Vec<(Pattern, f64)>,
    /// Each layer learns at this factor of the rate of the layer after it; 1 for one rate. Rates of `lr_groups` stand.
    pub layer_decay: f64,
    /// What has been unfrozen so far; the most specific pattern wins. Its factors do not touch rates of `lr_groups`.
    pub unfrozen: Vec<Unfreeze>,
}

impl GroupOptions {
    /// One rate for all parameters, no weight decay.
    pub fn new(lr: f64) -> GroupOptions {
        GroupOptions {
            lr,
            weight_decay: 0.0,
            decay_norms_and_biases: false,
            lr_groups: Vec::new(),
            layer_decay: 1.0,
            unfrozen: Vec::new(),
        }
    }
}

/// A row of the table of groups.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupRow {
    /// The pattern or the layer that decides the rate; where none does `head`, `backbone`, `network` (both) or `others`; `frozen`.
    pub name: String,
    /// Which of its parameters, where some have weight decay and others none: `weights`, or `biases and norms`. Else empty.
    pub part: &'static str,
    /// Elements of its parameters.
    pub parameters: u64,
    /// Whether they train.
    pub trainable: bool,
    /// The learning rate before the schedule; 0 where frozen.
    pub lr: f64,
    /// The weight decay; 0 where frozen.
    pub weight_decay: f64,
}

/// What the rate of a parameter is, and what decides it.
struct Rate {
    label: Option<String>,
    lr: f64,
}

/// The trainable parameters of `graph` by rate and decay, and the table that shows them.
pub fn groups(graph: &Graph, options: &GroupOptions) -> (Vec<Group>, Vec<GroupRow>) {
    let layers = layers(graph);
    let (mut groups, mut rows) = (Vec::<Group>::new(), Vec::<GroupRow>::new());
    let parts = !options.decay_norms_and_biases && options.weight_decay != 0.0;
    let others = others(graph, &layers, options);
    let mut frozen = 0;
    for (name, elements, one_dimension, trainable) in weights(graph) {
        if !trainable {
            frozen += elements;
            continue;
        }
        let Rate { label, lr } = rate(name, &layers, options);
        let label = label.unwrap_or_else(|| others.to_owned());
        let part = match (parts, one_dimension) {
            (false, _) => "",
            (true, false) => "weights",
            (true, true) => "biases and norms",
        };
        let decays = options.decay_norms_and_biases || !one_dimension;
        let weight_decay = if decays { options.weight_decay } else { 0.0 };
        let same = rows.iter().position(|r| r.name == label && r.lr == lr && r.weight_decay == weight_decay);
        match same {
            Some(index) => {
                groups[index].names.push(name.to_owned());
                rows[index].parameters += elements;
            }
            None => {
                groups.push(Group { names: vec![name.to_owned()], lr, weight_decay });
                rows.push(GroupRow { name: label, part, parameters: elements, trainable, lr, weight_decay });
            }
        }
    }
    if frozen > 0 {
        let name = "frozen".to_owned();
        rows.push(GroupRow {
            name,
            part: "",
            parameters: frozen,
            trainable: false,
            lr: 0.0,
            weight_decay: 0.0,
        });
    }
    (groups, rows)
}

/// Name, elements, whether it has one dimension, and whether it trains, of each parameter that is no running statistic.
fn weights(graph: &Graph) -> impl Iterator<Item = (&str, u64, bool, bool)> {
    graph.parameters().iter().filter_map(|&id| {
        let (value, info) = (graph.value(id), graph.parameter_info(id)?);
        let shape = value.shape.as_fixed().unwrap_or_default();
        let elements = shape.iter().product::<usize>() as u64;
        let weight = info.role == Role::Weight;
        weight.then_some((value.name.as_str(), elements, shape.len() <= 1, info.trainable))
    })
}

fn rate(name: &str, layers: &[(String, Vec<String>)], options: &GroupOptions) -> Rate {
    let given = options.lr_groups.iter().filter(|(pattern, _)| pattern.matches(name));
    if let Some((pattern, lr)) = given.max_by_key(|(pattern, _)| pattern.specificity()) {
        return Rate { label: Some(pattern.to_string()), lr: *lr };
    }
    let unfrozen = options.unfrozen.iter().filter(|u| u.pattern.matches(name));
    let unfrozen = unfrozen.max_by_key(|u| u.pattern.specificity());
    let lr = options.lr * unfrozen.map_or(1.0, |u| u.factor);
    if options.layer_decay != 1.0
        && let Some(place) = layers.iter().position(|(_, names)| names.iter().any(|n| n == name))
    {
        let after = (layers.len() - 1 - place) as f64;
        return Rate { label: Some(layers[place].0.clone()), lr: lr * libm::pow(options.layer_decay, after) };
    }
    Rate { label: unfrozen.map(|u| u.pattern.to_string()), lr }
}

/// What the trainable parameters are called whose rate is that of the recipe.
fn others(graph: &Graph, layers: &[(String, Vec<String>)], options: &GroupOptions) -> &'static str {
    let head = head_names(graph);
    let trainable = weights(graph).filter(|&(_, _, _, trainable)| trainable).map(|(name, ..)| name);
    let (mut in_head, mut in_backbone, mut named) = (false, false, false);
    for name in trainable {
        match rate(name, layers, options).label {
            Some(_) => named = true,
            None if head.contains(&name) => in_head = true,
            None => in_backbone = true,
        }
    }
    match (in_head, in_backbone, named) {
        (_, false, _) => "head",
        (false, true, _) => "backbone",
        (true, true, false) => "network",
        (true, true, true) => "others",
    }
}

/// The layers of a network, from input to output, each with its parameters.
///
/// A layer is a numbered module (`layer4.2`, `features.5`, `blocks.3`) with all in it, or an unnumbered one (`conv1`, `fc`) with
/// the norm after it. They stand in the order in which the graph uses them first.
pub fn layers(graph: &Graph) -> Vec<(String, Vec<String>)> {
    let mut layers: Vec<(String, Vec<String>)> = Vec::new();
    for id in graph.nodes().iter().flat_map(|node| &node.inputs) {
        if graph.parameter_info(*id).is_none_or(|info| info.role != Role::Weight) {
            continue;
        }
        let value = graph.value(*id);
        let (key, numbered) = layer_of(&value.name);
        let norm = value.shape.as_fixed().is_some_and(|shape| shape.len() <= 1);
        let place = layers.iter().position(|(name, _)| *name == key);
        let place = place.or_else(|| (norm && !numbered).then(|| layers.len().checked_sub(1)).flatten());
        match place {
            Some(place) if !layers[place].1.contains(&value.name) => layers[place].1.push(value.name.clone()),
            Some(_) => {}
            None => layers.push((key, vec![value.name.clone()])),
        }
    }
    layers
}

/// The module of a parameter, up to the first number in its name, and whether that is the number of a block: `4`, or a name with a
/// number that has modules of its own. (A norm beside `conv_1` belongs to it, and so does the bias of an exporter's `Conv_193`.)
fn layer_of(name: &str) -> (String, bool) {
    let parts: Vec<&str> = name.split('.').collect();
    let modules = &parts[..parts.len().saturating_sub(1).max(1)];
    // `4`, or torchvision's `encoder_layer_4` and `block2-4`.
    let number = |part: &&str| part.rsplit(['_', '-']).next().is_some_and(|end| end.parse::<u32>().is_ok());
    let numbered = modules.iter().position(number);
    let block = |place: usize| modules[place].parse::<u32>().is_ok() || place + 1 < modules.len();
    let key = modules[..numbered.map_or(modules.len(), |place| place + 1)].join(".");
    (key, numbered.is_some_and(block))
}
