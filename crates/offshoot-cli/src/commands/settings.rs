//! The flags of the settings of training, which follow from their declarations.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use offshoot::Settings;
use offshoot_train::settings::{Form, SETTINGS, Setting, Value};

/// What the flags say that belong to one setting each.
pub(crate) struct SettingArguments(pub(crate) Settings);

impl Args for SettingArguments {
    fn augment_args(command: Command) -> Command {
        SETTINGS.iter().filter_map(flag).fold(command, Command::arg)
    }

    fn augment_args_for_update(command: Command) -> Command {
        SettingArguments::augment_args(command)
    }
}

impl FromArgMatches for SettingArguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<SettingArguments, clap::Error> {
        let given = SETTINGS.iter().filter(|setting| setting.flag().is_some()).flat_map(|setting| {
            let values: Vec<Value> = match setting.form {
                Form::Switch => {
                    matches.get_flag(setting.name).then_some(Value::Boolean(true)).into_iter().collect()
                }
                _ => matches.get_many::<Value>(setting.name).into_iter().flatten().cloned().collect(),
            };
            values.into_iter().map(move |value| (setting, value))
        });
        let settings = Settings::of_values(given);
        settings
            .map(SettingArguments)
            .map_err(|e| clap::Error::raw(clap::error::ErrorKind::ValueValidation, e))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = SettingArguments::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The flag of a setting that has one of its own.
fn flag(setting: &'static Setting) -> Option<Arg> {
    let name = setting.flag()?.replace('_', "-");
    let flag = Arg::new(setting.name).long(name).help(help(setting)).help_heading(setting.group.to_string());
    let takes_text = || {
        let flag = flag
            .clone()
            .value_name(setting.value)
            .allow_negative_numbers(matches!(setting.value, "X" | "DECAY"));
        flag.value_parser(move |text: &str| setting.parse(text))
    };
    Some(match setting.form {
        Form::Switch => flag.action(ArgAction::SetTrue),
        Form::Many(_) | Form::Entries(..) => takes_text().action(ArgAction::Append),
        Form::One(_) | Form::Elsewhere(_) => takes_text(),
    })
}

/// What a setting is, and its default.
fn help(setting: &Setting) -> String {
    let many = match setting.form {
        Form::Many(_) | Form::Entries(..) => " May be given several times.",
        Form::One(_) | Form::Switch | Form::Elsewhere(_) => "",
    };
    let text = format!("{}{many}", setting.help);
    match setting.default {
        "" => text,
        _ if setting.off => format!("{} [default: off].", text.trim_end_matches('.')),
        default => format!("{} [default: {default}].", text.trim_end_matches('.')),
    }
}
