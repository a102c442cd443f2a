//! An optimizer with its update rule on the executor, fed with gradients.

use offshoot_cpu::{CpuExecutor, CpuOptions};
use offshoot_graph::passes::{
    AVERAGE_PART, SQUARES, TrainingGraph, UNSCALE, UPDATE_RATES, apply_graph, average_parameter,
    sum_parameter,
};
use offshoot_graph::{ExecuteError, Executor, Graph, Role, Session, Tensor, Weights};
use offshoot_train::optimizer::{Clip, Group};
use offshoot_train::{Optimizer, OptimizerKind, OptimizerOptions};

/// One parameter, `w`, in training.
pub(crate) struct Rule {
    pub(crate) optimizer: Optimizer,
    session: Box<dyn Session>,
    updates: usize,
}

impl Rule {
    pub(crate) fn new(
        options: OptimizerOptions,
        lr: f64,
        weight_decay: f64,
        clip: Clip,
        start: &[f32],
    ) -> Rule {
        let mut weights = Weights::from([("w".to_string(), Tensor::f32([start.len()], start.to_vec()))]);
        let group = Group { names: vec!["w".into()], lr, weight_decay };
        let optimizer = Optimizer::new(options, vec![group], &weights);
        let mut graph = Graph::new("one parameter");
        graph.add_parameter("w", &[start.len()], Role::Weight);
        let training = TrainingGraph { graph, trained: vec!["w".into()], states: Vec::new() };
        let graph = apply_graph(&training, optimizer.rule(), clip, true).unwrap();
        weights.insert(sum_parameter("w"), Tensor::zeros([start.len()]));
        weights.insert(average_parameter("w"), Tensor::zeros([start.len()]));
        weights.extend(optimizer.moments());
        let executor = CpuExecutor::new(CpuOptions::default()).unwrap();
        let session = executor.prepare(&graph, &weights).unwrap();
        Rule { optimizer, session, updates: 0 }
    }

    /// One update. Gives the 2-norm of the gradient.
    pub(crate) fn update(
        &mut self,
        gradient: &[f32],
        factor: f64,
        unscale: f32,
    ) -> Result<f64, ExecuteError> {
        let gradient = Tensor::f32([gradient.len()], gradient.to_vec());
        self.session.upload(&sum_parameter("w"), &gradient)?;
        let rates = self.optimizer.rates(factor);
        let scalar = |number| Tensor::full([], number);
        let (unscale_input, part) = (scalar(unscale), scalar(if self.updates == 0 { 1.0 } else { 0.25 }));
        self.session.run(&[(UPDATE_RATES, &rates), (UNSCALE, &unscale_input), (AVERAGE_PART, &part)])?;
        self.updates += 1;
        let squares = self.session.read(SQUARES).unwrap();
        Ok(self.optimizer.updated(squares.as_f64().unwrap(), unscale))
    }

    pub(crate) fn weight(&self) -> Vec<f32> {
        self.session.read("w").unwrap().into_f32().unwrap()
    }

    /// The moving average with a decay of 3/4.
    pub(crate) fn average(&self) -> Vec<f32> {
        self.session.read(&average_parameter("w")).unwrap().into_f32().unwrap()
    }

    pub(crate) fn state(&self) -> Weights {
        self.optimizer.state(|moment| self.session.read(moment))
    }

    pub(crate) fn load_state(&mut self, state: &Weights) {
        let moments = self.optimizer.load_state(state).unwrap();
        self.session.restore(&moments).unwrap();
    }
}

#[test]
fn a_refused_step_changes_nothing() {
    for clip in [Clip::Off, Clip::Value(1.0), Clip::Norm(1.0)] {
        let options = OptimizerOptions { momentum: 0.5, ..OptimizerOptions::new(OptimizerKind::Sgd) };
        let mut rule = Rule::new(options, 1.0, 0.0, clip, &[1.0, 3e38]);
        rule.update(&[0.5, 0.5], 1.0, 1.0).unwrap();
        let before = (rule.weight(), rule.state());
        for broken in [f32::NAN, f32::INFINITY] {
            let error = rule.update(&[1.0, broken], 1.0, 1.0).unwrap_err();
            assert_eq!(error, ExecuteError::NotFinite("w".into()), "{clip:?}");
        }
        assert_eq!((rule.weight(), rule.state()), before, "{clip:?}");
    }
    let options = OptimizerOptions::new(OptimizerKind::Sgd);
    let mut rule = Rule::new(options, 1.0, 0.0, Clip::Off, &[1.0, 3e38]);
    let error = rule.update(&[1.0, -3e38], 1.0, 1.0).unwrap_err();
    assert_eq!((error, rule.weight()), (ExecuteError::NotFinite("w".into()), vec![1.0, 3e38]));
}

#[test]
fn a_restored_state_goes_on_with_the_same_bits() {
    let gradient = [0.1, -0.7, 0.3];
    for kind in [OptimizerKind::Sgd, OptimizerKind::Adam, OptimizerKind::AdamW] {
        let options = OptimizerOptions { momentum: 0.9, ..OptimizerOptions::new(kind) };
        let new = |start: &[f32]| Rule::new(options, 0.1, 0.01, Clip::Off, start);
        let mut whole = new(&[0.5, -0.25, 2.0]);
        for _ in 0..3 {
            whole.update(&gradient, 1.0, 1.0).unwrap();
        }
        let mut resumed = new(&whole.weight());
        resumed.load_state(&whole.state());
        for rule in [&mut whole, &mut resumed] {
            rule.update(&gradient, 0.5, 1.0).unwrap();
        }
        assert_eq!((whole.weight(), whole.state()), (resumed.weight(), resumed.state()), "{kind:?}");
    }
}

#[test]
fn a_moving_average_follows_the_new_weights() {
    let options = OptimizerOptions::new(OptimizerKind::Sgd);
    let mut rule = Rule::new(options, 1.0, 0.0, Clip::Off, &[0.0, 0.0]);
    for gradient in [[-1.0, 4.0], [-2.0, -4.0], [-5.0, -1.0]] {
        rule.update(&gradient, 1.0, 1.0).unwrap();
    }
    assert_eq!(rule.weight(), [8.0, 1.0]);
    // 1 -> 1.5 -> 3.125, -4 -> -3 -> -2
    assert_eq!(rule.average(), [3.125, -2.0]);
    rule.update(&[f32::NAN, 0.0], 1.0, 1.0).unwrap_err();
    assert_eq!(rule.average(), [3.125, -2.0]);
}
